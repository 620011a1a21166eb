//! The flags of `agentctl run` for limits.

use agentd_policy::limits::{Asked, Limit};
use agentd_policy::quantity::{Size, Span};
use clap::builder::ValueParser;
use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches};

use crate::quantity;

/// What the flags of the table of limits ask for: each that has a flag there has one here, by its name.
#[derive(Debug)]
pub struct LimitArgs(pub Asked);

/// How the value of a flag is called in `--help` and read.
trait Value: Clone + Send + Sync + 'static {
    const NAME: &str;
    fn parser() -> ValueParser;
}

impl Value for Size {
    const NAME: &str = "SIZE";
    fn parser() -> ValueParser {
        ValueParser::new(|text: &str| quantity::size(text).map(Self))
    }
}

impl Value for Span {
    const NAME: &str = "DURATION";
    fn parser() -> ValueParser {
        ValueParser::new(|text: &str| quantity::duration_ms(text).map(Self))
    }
}

impl Value for u64 {
    const NAME: &str = "N";
    fn parser() -> ValueParser {
        ValueParser::new(clap::value_parser!(u64).range(1..))
    }
}

impl Value for f64 {
    const NAME: &str = "N";
    fn parser() -> ValueParser {
        ValueParser::new(quantity::cpus)
    }
}

/// The flag of `limit`, if it has one.
fn flag<V: Value>(limit: Limit) -> Option<Arg> {
    let flag = limit.flag()?;
    let arg = Arg::new(limit.name()).long(limit.name()).value_name(V::NAME).value_parser(V::parser());
    Some(flag.short.map_or(arg.clone(), |letter| arg.short(letter)).help(flag.help))
}

/// The value of the flag of `limit`, if it has one and it was given.
fn value<V: Value>(matches: &ArgMatches, limit: Limit) -> Option<V> {
    limit.flag().and_then(|_| matches.get_one::<V>(limit.name())).cloned()
}

macro_rules! args {
    ({} $(#[doc = $doc:literal] $limit:ident {
        plan $field:ident: $unit:ident, $(asked $key:ident,)? default $default:expr, most $most:expr
        $(, bound $own:ident: $bound_unit:ident = $bound:expr)?
    } { $($facts:tt)* })*) => {
        impl Args for LimitArgs {
            fn augment_args(command: Command) -> Command {
                command.args([$(flag::<$unit>(Limit::$limit)),*].into_iter().flatten())
            }

            fn augment_args_for_update(command: Command) -> Command {
                Self::augment_args(command)
            }
        }

        impl FromArgMatches for LimitArgs {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
                Ok(Self(Asked { $($($key: value::<$unit>(matches, Limit::$limit),)?)* }))
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
                self.0 = self.0.overlaid(&Self::from_arg_matches(matches)?.0);
                Ok(())
            }
        }
    };
}

agentd_policy::limits_table!(args! {});
