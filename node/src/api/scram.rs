//! AlterUserScramCredentials and DescribeUserScramCredentials (KIP-554): passwords of users, which come salted and stretched
//! and are not kept even so.

use std::collections::BTreeSet;

use wherry_metadata::{Change, Command, MetadataError, ScramMechanism};

use super::errors::ApiError;
use super::{Ctx, Outcome};
use crate::core::store::LogStore;
use crate::core::{AfterCommit, Core};
use crate::limits::{MAX_SALTED_PASSWORD_BYTES, MAX_USERS_PER_REQUEST};
use crate::security::sasl::scram::{MAX_ITERATIONS, MIN_ITERATIONS, of_salted};
use wherry_wire::codec::messages::alter_user_scram_credentials_request::{
    ScramCredentialDeletion, ScramCredentialUpsertion,
};
use wherry_wire::codec::messages::alter_user_scram_credentials_response::AlterUserScramCredentialsResult;
use wherry_wire::codec::messages::describe_user_scram_credentials_response::{
    CredentialInfo, DescribeUserScramCredentialsResult,
};
use wherry_wire::codec::messages::{
    AlterUserScramCredentialsRequest, AlterUserScramCredentialsResponse, DescribeUserScramCredentialsRequest,
    DescribeUserScramCredentialsResponse,
};
use wherry_wire::codec::{ResponseError, StrBytes};

fn code(mechanism: ScramMechanism) -> i8 {
    match mechanism {
        ScramMechanism::Sha256 => 1,
        ScramMechanism::Sha512 => 2,
    }
}

fn mechanism(code: i8) -> Result<ScramMechanism, ApiError> {
    match code {
        1 => Ok(ScramMechanism::Sha256),
        2 => Ok(ScramMechanism::Sha512),
        _ => Err(ApiError::new(ResponseError::UnsupportedSaslMechanism, "Unknown SCRAM mechanism")),
    }
}

/// A request whose commands are on their way to the disk.
#[derive(Debug)]
pub(crate) struct Pending {
    ctx: Ctx,
    response: AlterUserScramCredentialsResponse,
    /// Which result each command is about.
    places: Vec<usize>,
}

/// Each user is altered as a whole or not at all, as far as can be told beforehand.
pub(crate) fn alter<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &AlterUserScramCredentialsRequest) -> Outcome {
    let count = request.upsertions.len() + request.deletions.len();
    if count > MAX_USERS_PER_REQUEST {
        return Outcome::Close(format!("{count} credentials altered at once"));
    }
    let mut response = AlterUserScramCredentialsResponse::default();
    let (mut commands, mut places) = (Vec::new(), Vec::new());
    for user in users(request) {
        let mut result = AlterUserScramCredentialsResult::default().with_user(user.clone());
        match of_user(core, request, &user) {
            Ok(of_user) => {
                places.extend(of_user.iter().map(|_| response.results.len()));
                commands.extend(of_user);
            }
            Err(error) => fail(&mut result, &error),
        }
        response.results.push(result);
    }
    if commands.is_empty() {
        return ctx.reply(&response);
    }
    let pending = Pending { ctx: ctx.clone(), response, places };
    match core.propose(commands, AfterCommit::AlterScram(Box::new(pending))) {
        Ok(()) => Outcome::LaterAlone,
        Err((error, AfterCommit::AlterScram(pending))) => not_logged(*pending, &ApiError::from(&error)),
        Err((error, _)) => Outcome::Close(error.to_string()),
    }
}

/// Each once, in the order asked.
fn users(request: &AlterUserScramCredentialsRequest) -> Vec<StrBytes> {
    let named = request.deletions.iter().map(|d| &d.name).chain(request.upsertions.iter().map(|u| &u.name));
    let mut seen = BTreeSet::new();
    named.filter(|name| seen.insert(name.as_str())).cloned().collect()
}

fn of_user<S: LogStore>(
    core: &Core<S>,
    request: &AlterUserScramCredentialsRequest,
    user: &StrBytes,
) -> Result<Vec<Command>, ApiError> {
    if user.is_empty() {
        return Err(ApiError::new(ResponseError::UnacceptableCredential, "Username must not be empty"));
    }
    let removed = request.deletions.iter().filter(|d| d.name == *user).map(remove);
    let set = request.upsertions.iter().filter(|u| u.name == *user).map(set);
    let of_user: Vec<(i8, Command)> = removed.chain(set).collect::<Result<_, _>>()?;
    let mut seen = BTreeSet::new();
    if !of_user.iter().all(|(mechanism, _)| seen.insert(*mechanism)) {
        let text = "A user credential cannot be altered twice in the same request";
        return Err(ApiError::new(ResponseError::DuplicateResource, text));
    }
    for (_, command) in &of_user {
        core.meta.check(command).map_err(|error| ApiError::from(&error))?;
    }
    Ok(of_user.into_iter().map(|(_, command)| command).collect())
}

fn remove(deletion: &ScramCredentialDeletion) -> Result<(i8, Command), ApiError> {
    let mechanism = mechanism(deletion.mechanism)?;
    Ok((code(mechanism), Command::RemoveScram { user: deletion.name.to_string(), mechanism }))
}

fn set(upsertion: &ScramCredentialUpsertion) -> Result<(i8, Command), ApiError> {
    let unfit = |text: &str| Err(ApiError::new(ResponseError::UnacceptableCredential, text));
    let mechanism = mechanism(upsertion.mechanism)?;
    if upsertion.iterations < MIN_ITERATIONS {
        return unfit("Too few iterations");
    }
    if upsertion.iterations > MAX_ITERATIONS {
        return unfit("Too many iterations");
    }
    if upsertion.salt.is_empty() || upsertion.salted_password.is_empty() {
        return unfit("A salt and a salted password are needed");
    }
    if upsertion.salted_password.len() > MAX_SALTED_PASSWORD_BYTES {
        return unfit("The salted password is too long");
    }
    let credential = of_salted(mechanism, upsertion.salt.to_vec(), upsertion.iterations, &upsertion.salted_password);
    Ok((code(mechanism), Command::SetScram { user: upsertion.name.to_string(), mechanism, credential }))
}

fn fail(result: &mut AlterUserScramCredentialsResult, error: &ApiError) {
    result.error_code = error.code();
    result.error_message = error.text();
}

fn not_logged(mut pending: Pending, error: &ApiError) -> Outcome {
    for place in &pending.places {
        if let Some(result) = pending.response.results.get_mut(*place) {
            fail(result, error);
        }
    }
    pending.ctx.reply(&pending.response)
}

/// Goes on when the commands are committed.
pub(crate) fn committed<S: LogStore>(
    core: &mut Core<S>,
    mut pending: Pending,
    results: Vec<Result<Change, MetadataError>>,
) {
    for (place, outcome) in pending.places.iter().zip(results) {
        if let (Some(result), Err(error)) = (pending.response.results.get_mut(*place), outcome) {
            fail(result, &ApiError::from(&error));
        }
    }
    let outcome = pending.ctx.reply(&pending.response);
    core.finish(pending.ctx.id, outcome);
}

/// Says who has which credentials, and nothing of what they are.
pub(crate) fn describe<S: LogStore>(
    core: &mut Core<S>,
    ctx: &Ctx,
    request: &DescribeUserScramCredentialsRequest,
) -> Outcome {
    let mut response = DescribeUserScramCredentialsResponse::default();
    let asked: Vec<StrBytes> = match &request.users {
        Some(users) if users.len() > MAX_USERS_PER_REQUEST => {
            return Outcome::Close(format!("{} users asked for at once", users.len()));
        }
        Some(users) if !users.is_empty() => users.iter().map(|user| user.name.clone()).collect(),
        Some(_) | None => core.meta.scram_users().keys().map(|user| StrBytes::from_string(user.clone())).collect(),
    };
    let twice = |user: &StrBytes| asked.iter().filter(|other| *other == user).count() > 1;
    let mut seen = BTreeSet::new();
    response.results = asked
        .iter()
        .filter(|user| seen.insert(user.as_str()))
        .map(|user| if request.users.is_some() && twice(user) { named_twice(user) } else { described(core, user) })
        .collect();
    ctx.reply(&response)
}

fn named_twice(user: &StrBytes) -> DescribeUserScramCredentialsResult {
    let text = format!("Cannot describe SCRAM credentials for the same user twice in a single request: {}", &**user);
    DescribeUserScramCredentialsResult::default()
        .with_user(user.clone())
        .with_error_code(ResponseError::DuplicateResource.code())
        .with_error_message(Some(StrBytes::from_string(text)))
}

fn described<S: LogStore>(core: &Core<S>, user: &StrBytes) -> DescribeUserScramCredentialsResult {
    let result = DescribeUserScramCredentialsResult::default().with_user(user.clone());
    let Some(credentials) = core.meta.scram_users().get(user.as_str()) else {
        let text = format!("Attempt to describe a user credential that does not exist: {}", &**user);
        return result
            .with_error_code(ResponseError::ResourceNotFound.code())
            .with_error_message(Some(StrBytes::from_string(text)));
    };
    let info = credentials.iter().map(|(mechanism, credential)| {
        CredentialInfo::default().with_mechanism(code(*mechanism)).with_iterations(credential.iterations)
    });
    result.with_credential_infos(info.collect())
}
