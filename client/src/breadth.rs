//! Rules that let through far more than they seem to: names that anybody may register, and most of the internet's
//! addresses. Such a rule is its owner's choice, and said in words.

use agentd_policy::allow::AllowRule;
use agentd_policy::allow::NetRule;
use agentd_policy::hosts::HostRule;

/// The longest prefixes, of IPv4 and IPv6, of networks that are said to be wide.
const WIDE: [u8; 2] = [8, 24];

/// What to say of `rules`, each in a line.
pub fn warnings(rules: impl IntoIterator<Item = AllowRule>) -> Vec<String> {
    rules.into_iter().filter_map(|rule| warning(&rule)).collect()
}

fn warning(rule: &AllowRule) -> Option<String> {
    match rule {
        AllowRule::Net(NetRule { net, .. }) => {
            let wide = WIDE[usize::from(net.address().is_ipv6())];
            (net.length() <= wide)
                .then(|| format!("warning: allow {rule} reaches every server in {net}, by whatever name"))
        }
        AllowRule::Host(HostRule { host, .. }) => {
            let host = host.to_string();
            let base = host.strip_prefix("*.")?;
            let suffix = psl::suffix(base.as_bytes())?;
            // A name at the top that is nobody's is the site's own.
            (suffix.is_known() && suffix.as_bytes() == base.as_bytes()).then(|| {
                format!("warning: allow {rule} reaches every name below {base}, where anybody may have one")
            })
        }
        AllowRule::Local(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(rule: &str) -> usize {
        warnings([AllowRule::parse(rule).unwrap()]).len()
    }

    #[test]
    fn what_anybody_may_have_a_name_below_is_said() {
        for wide in ["*.com", "*.com:443", "*.co.uk", "*.CO.UK:80,443", "*.github.io:*"] {
            assert_eq!(said(wide), 1, "{wide}");
        }
        for narrow in [
            "example.com",
            "*.example.com",
            "*.example.co.uk:443",
            "com",
            "local:5432",
            "*.a.github.io",
            "*.internal:22",
        ] {
            assert_eq!(said(narrow), 0, "{narrow}");
        }
    }

    #[test]
    fn what_is_most_of_the_internet_is_said() {
        for wide in ["0.0.0.0/0:*", "128.0.0.0/1:443", "11.0.0.0/8:80/udp", "[::/0]:443", "2000::/3"] {
            assert_eq!(said(wide), 1, "{wide}");
        }
        for narrow in ["192.0.2.0/24", "10.1.0.0/16:443", "[2001:db8::/32]:443", "192.0.2.1/32:1"] {
            assert_eq!(said(narrow), 0, "{narrow}");
        }
    }
}
