use super::*;
use agentd_policy::names::{AbsPath, UserName};
use agentd_policy::plan::Plan;

/// A session that nobody built.
pub fn session(id: &str, name: Option<&str>, uid: u32) -> Arc<Session> {
    let path = |text| AbsPath::parse(text).unwrap();
    let plan = Plan {
        session: SessionId::parse(id).unwrap(),
        profile: agentd_policy::digest::Digest::default(),
        user: UserName::parse("alice").unwrap(),
        home: path("/home/alice"),
        shell: path("/bin/sh"),
        command: vec![b"true".to_vec()],
        env: vec![],
        cwd: path("/home/alice"),
        terminal: None,
        workspaces: vec![],
        inputs: vec![],
        scratch: vec![],
        home_size: 4096,
        limits: agentd_policy::limits::Limits {
            memory: 1 << 20,
            pids: 1,
            cpus: 1.0,
            disk: 0,
            inodes: 1 << 20,
            timeout_ms: 1,
            idle_ms: 0,
            open_files: 16,
        },
        landlock_abi: 2,
        remove: false,
        umask: 0o022,
        egress: None,
    };
    let root = std::env::temp_dir().join(format!("agentd-session-{}", std::process::id()));
    std::fs::create_dir_all(root.join("audit")).unwrap();
    let store = crate::store::Store::open(&path(root.to_str().unwrap()), 1 << 40).unwrap();
    let name = name.map(|name| SessionName::parse(name).unwrap());
    let (log, output) = (store.log(&plan.session), store.output(&plan.session));
    output.begin();
    Session::new(Record::new(&plan, name, uid, "default".into(), false), log, output).0
}
