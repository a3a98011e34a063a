//! Files that are open, by id. A close waits for the operations in flight on its file. Does no I/O.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::real::OpenFile;
use super::{DiskError, FileId, Token};

#[derive(Debug, Default)]
pub(super) struct FileTable {
    files: HashMap<FileId, Slot, foldhash::fast::FixedState>,
    last: u32,
}

#[derive(Debug)]
struct Slot {
    file: Arc<OpenFile>,
    busy: u32,
    closing: Option<Token>,
}

/// A file that nobody uses any more, and who wants to know. Dropping it closes the descriptor, which may take time.
#[derive(Debug)]
pub(super) struct ToClose {
    pub(super) token: Token,
    pub(super) file: Arc<OpenFile>,
}

impl FileTable {
    pub(super) fn add(&mut self, file: OpenFile) -> FileId {
        loop {
            self.last = self.last.wrapping_add(1);
            let id = FileId(self.last);
            if let Entry::Vacant(free) = self.files.entry(id) {
                free.insert(Slot { file: Arc::new(file), busy: 0, closing: None });
                return id;
            }
        }
    }

    /// The file, for one operation; [`FileTable::release`] ends it.
    pub(super) fn take(&mut self, id: FileId) -> Result<Arc<OpenFile>, DiskError> {
        match self.files.get_mut(&id) {
            Some(slot) if slot.closing.is_none() => {
                slot.busy += 1;
                Ok(Arc::clone(&slot.file))
            }
            Some(_) | None => Err(not_open(id)),
        }
    }

    /// All of them, or none.
    pub(super) fn take_all(&mut self, ids: &[FileId]) -> Result<Vec<Arc<OpenFile>>, DiskError> {
        let mut taken = Vec::with_capacity(ids.len());
        for (index, id) in ids.iter().enumerate() {
            match self.take(*id) {
                Ok(file) => taken.push(file),
                Err(error) => {
                    for id in &ids[..index] {
                        self.put_back(*id);
                    }
                    return Err(error);
                }
            }
        }
        Ok(taken)
    }

    fn put_back(&mut self, id: FileId) {
        if let Some(slot) = self.files.get_mut(&id) {
            slot.busy -= 1;
        }
    }

    /// Ends an operation; gives the file back if it was the last before a close.
    pub(super) fn release(&mut self, id: FileId) -> Option<ToClose> {
        self.put_back(id);
        self.closable(id)
    }

    /// Marks a file as closing; gives it back at once if nothing is in flight on it.
    pub(super) fn close(&mut self, token: Token, id: FileId) -> Result<Option<ToClose>, DiskError> {
        match self.files.get_mut(&id) {
            Some(slot) if slot.closing.is_none() => slot.closing = Some(token),
            Some(_) | None => return Err(not_open(id)),
        }
        Ok(self.closable(id))
    }

    fn closable(&mut self, id: FileId) -> Option<ToClose> {
        let token = self.files.get(&id).filter(|slot| slot.busy == 0)?.closing?;
        self.files.remove(&id).map(|slot| ToClose { token, file: slot.file })
    }
}

fn not_open(file: FileId) -> DiskError {
    DiskError::Failed { what: format!("file {}", file.0), message: "is not open".into() }
}
