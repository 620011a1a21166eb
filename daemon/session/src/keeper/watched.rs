//! The files whose closes are reported, for as long as a call that opened one may fail.

use std::collections::BTreeMap;

use agentd_kernel::exec_watch::{Attempt, ExecWatch, Watched};
use agentd_kernel::procfs::FileId;

/// The most at once: each holds a descriptor.
const MAX: usize = 512;

/// Those of all processes.
#[derive(Debug, Default)]
pub struct WatchedFiles(BTreeMap<FileId, (Option<Watched>, u32)>);

impl WatchedFiles {
    /// Watches the file of an attempt that was not answered yet; whether that is possible.
    pub fn mark(&mut self, watch: &ExecWatch, attempt: &Attempt) -> bool {
        let Some(file) = attempt.file else { return false };
        if let Some((_, users)) = self.0.get_mut(&file) {
            *users += 1;
            return true;
        }
        let marked = self.0.len() < MAX && watch.watch(attempt).is_ok();
        if marked {
            self.0.insert(file, (None, 1));
        }
        marked
    }

    /// Takes the file of an attempt that was answered, to end its watch by.
    pub fn keep(&mut self, attempt: Attempt) {
        if let Some((watched @ None, _)) = attempt.file.and_then(|file| self.0.get_mut(&file)) {
            *watched = Some(attempt.watched());
        }
    }

    /// One call less has to do with it.
    pub fn release(&mut self, watch: &ExecWatch, file: FileId) {
        let Some((_, users)) = self.0.get_mut(&file) else { return };
        *users -= 1;
        if *users > 0 {
            return;
        }
        if let Some((Some(watched), _)) = self.0.remove(&file)
            && let Err(error) = watch.unwatch(&watched)
        {
            tracing::debug!(%error, "a mark stays on a file");
        }
    }
}
