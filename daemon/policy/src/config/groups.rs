//! Bounds of one session, by group of users: `[bounds.group.NAME]`.

use super::{Bounds, GroupBounds};
use crate::ceiling::{MAX_ENTRIES, MAX_LISTS, intersection};
use crate::mode::Mode;

/// The most groups with bounds of their own.
const MAX_GROUPS: usize = 64;
/// The longest name of a group: more than groupadd(8) takes.
const MAX_NAME: usize = 64;

/// Lists that are longer than a plan may carry, or a name that no group has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BoundsError {
    /// Too many tables of groups.
    #[error("[bounds.group]: {0} groups, of which {MAX_GROUPS} are taken")]
    Groups(usize),
    /// An empty or overlong name.
    #[error("[bounds.group.{0:?}]: no name of a group")]
    Name(String),
    /// Too many entries in one list.
    #[error("[bounds]: a list of {0} hosts, of which {MAX_ENTRIES} are taken")]
    Entries(usize),
    /// Too many bytes in all lists together.
    #[error("[bounds]: lists of hosts of {0} bytes together, of which {MAX_LISTS} are taken")]
    Text(usize),
}

impl Bounds {
    /// The bounds of somebody who is in the groups of these names. Of several tables that give a key the most generous
    /// one counts; a key that none of them gives is that of `[bounds]`.
    #[must_use]
    pub fn of_groups<N: AsRef<str>>(&self, names: &[N]) -> Self {
        let tables: Vec<_> = names.iter().filter_map(|name| self.group.get(name.as_ref())).collect();
        let any = |of: fn(&GroupBounds) -> Option<bool>, base| {
            tables.iter().copied().filter_map(of).reduce(|a, b| a || b).unwrap_or(base)
        };
        let mut own = Self {
            publish: any(|t| t.publish, self.publish),
            local: any(|t| t.local, self.local),
            opaque: any(|t| t.opaque, self.opaque),
            group: std::collections::BTreeMap::new(),
            ..self.clone()
        };
        own.take_highest(&tables);
        let forbidden: Vec<_> = tables.iter().filter_map(|t| t.modes_forbidden.as_ref()).collect();
        if let Some((first, others)) = forbidden.split_first() {
            let everywhere = |mode: &&Mode| others.iter().all(|modes| modes.contains(mode));
            own.modes_forbidden = first.iter().filter(everywhere).copied().collect();
        }
        let hosts: Vec<_> = tables.iter().filter_map(|t| t.hosts.as_ref()).collect();
        if !hosts.is_empty() {
            own.hosts = hosts.into_iter().flatten().cloned().collect();
        }
        let denied: Vec<_> = tables.iter().filter_map(|t| t.hosts_denied.as_deref()).collect();
        if !denied.is_empty() {
            own.hosts_denied = intersection(&denied);
        }
        own
    }

    /// Checks what travels with every plan.
    pub(super) fn check_lists(&self) -> Result<(), BoundsError> {
        if self.group.len() > MAX_GROUPS {
            return Err(BoundsError::Groups(self.group.len()));
        }
        if let Some(name) = self.group.keys().find(|name| name.is_empty() || name.len() > MAX_NAME) {
            return Err(BoundsError::Name(name.clone()));
        }
        let groups = self.group.values().flat_map(|table| [&table.hosts, &table.hosts_denied]);
        let lists = groups.flatten().chain([&self.hosts, &self.hosts_denied]);
        let mut text = 0;
        for list in lists {
            if list.len() > MAX_ENTRIES {
                return Err(BoundsError::Entries(list.len()));
            }
            text += list.iter().map(|entry| entry.to_string().len()).sum::<usize>();
        }
        if text > MAX_LISTS {
            return Err(BoundsError::Text(text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::mode::Mode;

    const TEXT: &str = "
        [bounds]
        memory = '4G'
        hosts = ['*.example.org']
        hosts_denied = ['evil.example.org', '203.0.113.0/24']
        local = false
        modes_forbidden = ['direct', 'ro']
        [bounds.group.devs]
        hosts = ['*', '*.example.com']
        hosts_denied = ['203.0.113.0/24', '*.bad.example']
        modes_forbidden = ['direct']
        local = true
        [bounds.group.ops]
        memory = '8G'
        hosts_denied = ['203.0.113.128/25', 'x.bad.example']
        modes_forbidden = ['ro']
        local = false
        [bounds.group.guests]
        memory = '1G'
        timeout = '1h'
    ";

    #[test]
    fn of_several_groups_the_most_generous_counts() {
        let bounds = Config::parse(TEXT).unwrap().bounds;
        let text = |list: &[crate::ceiling::Hosts]| {
            list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let nobody = bounds.of_groups(&["strangers"]);
        assert_eq!(
            (nobody.memory.0, nobody.local, text(&nobody.hosts)),
            (4 << 30, false, "*.example.org".into())
        );
        let guest = bounds.of_groups(&["guests"]);
        assert_eq!((guest.memory.0, guest.timeout.0), (1 << 30, 3_600_000));
        assert_eq!(text(&guest.hosts_denied), "evil.example.org 203.0.113.0/24");
        let both = bounds.of_groups(&["ops", "guests"]);
        assert_eq!((both.memory.0, both.timeout.0, both.local), (8 << 30, 3_600_000, false));
        let all = bounds.of_groups(&["devs", "ops", "guests"]);
        assert_eq!(text(&all.hosts), "* *.example.com");
        assert_eq!(text(&all.hosts_denied), "203.0.113.128/25 x.bad.example");
        assert!(all.local && all.modes_forbidden.is_empty() && all.group.is_empty());
        assert_eq!(bounds.of_groups(&["devs"]).modes_forbidden, [Mode::Direct]);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for bad in [
            "hosts = ['example.org:443']",
            "hosts = ['*.*']",
            "hosts = ['**']",
            "hosts = ['10.0.0.1/8']",
            "hosts_denied = ['']",
            "hosts = '*'",
            "group = { x = { max_sessions = 3 } }",
            "group = { x = { hosts = ['http://example.org'] } }",
            "group = { '' = {} }",
        ] {
            assert!(Config::parse(&format!("[bounds]\n{bad}")).is_err(), "{bad}");
        }
        let many: Vec<_> = (0..257).map(|n| format!("'h{n}.example'")).collect();
        assert!(Config::parse(&format!("[bounds]\nhosts = [{}]", many.join(","))).is_err());
        let long: Vec<_> = (0..100).map(|n| format!("'{}.h{n}.example'", "x".repeat(60))).collect();
        let both = format!("[bounds]\nhosts = [{0}]\nhosts_denied = [{0}]", long.join(","));
        assert!(Config::parse(&both).is_err());
    }
}
