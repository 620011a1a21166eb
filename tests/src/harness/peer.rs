//! Threads that are another user.

use rustix::process::{Gid, Uid};

/// The third field of a line of /etc/passwd or /etc/group.
pub fn number_of(file: &str, name: &str) -> u32 {
    let text = std::fs::read_to_string(file).expect("the accounts");
    let line = text.lines().find(|line| line.split(':').next() == Some(name)).expect("the account");
    line.split(':').nth(2).and_then(|word| word.parse().ok()).expect("a number")
}

/// Runs `act` on a thread that is `uid`. The kernel keeps ids by thread, so nobody else changes.
pub fn as_user<T: Send>(uid: u32, gid: u32, groups: &[u32], act: impl FnOnce() -> T + Send) -> T {
    let groups: Vec<Gid> = groups.iter().map(|g| Gid::from_raw(*g)).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            rustix::thread::set_thread_groups(&groups).expect("root may");
            rustix::thread::set_thread_res_gid(gid, gid, gid).expect("root may");
            rustix::thread::set_thread_res_uid(uid, uid, uid).expect("root may");
            act()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
