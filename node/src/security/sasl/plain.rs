//! PLAIN (RFC 4616): `[authzid] NUL user NUL password`.

use super::super::secrets::Secrets;
use super::Step;

/// Takes the only message.
pub(super) fn step(message: &[u8], secrets: &Secrets) -> Step {
    let Some((authzid, user, password)) = parts(message) else {
        return Step::Failure("a PLAIN message that is not of the form 'authzid NUL user NUL password'".into());
    };
    if !authzid.is_empty() && authzid != user {
        return Step::Failure("a client that wants to act for somebody else".into());
    }
    if user.is_empty() || password.is_empty() || !secrets.plain_matches(user, password.as_bytes()) {
        return Step::Failure("a wrong user or password".into());
    }
    Step::Success { user: user.to_owned(), bytes: Vec::new(), until_ms: None }
}

fn parts(message: &[u8]) -> Option<(&str, &str, &str)> {
    let mut parts = std::str::from_utf8(message).ok()?.split('\0');
    let found = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_password_of_a_known_user_passes() {
        let secrets = Secrets::default();
        secrets.set_plain_users("alice:pass:word\n# bob:x\n\nbob:s3cret\n").unwrap();
        let ask = |message: &str| step(message.as_bytes(), &secrets);
        let passed = |user: &str| Step::Success { user: user.into(), bytes: Vec::new(), until_ms: None };
        assert_eq!(ask("\0alice\0pass:word"), passed("alice"));
        assert_eq!(ask("bob\0bob\0s3cret"), passed("bob"));
        for wrong in [
            "",
            "\0",
            "\0alice",
            "\0alice\0",
            "\0\0pass:word",
            "\0alice\0pass",
            "\0bob\0pass:word",
            "\0carol\0x",
            "alice\0bob\0s3cret",
            "\0bob\0s3cret\0",
            "\0# bob\0x",
        ] {
            assert!(matches!(ask(wrong), Step::Failure(_)), "{wrong:?}");
        }
        assert!(matches!(step(b"\0bob\0\xff", &secrets), Step::Failure(_)));
    }
}
