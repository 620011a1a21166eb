//! What an opaque rule lets through: all bytes as they are. A denied name in the ClientHello, or in the head of the
//! request, that the connection begins with ends it: a deny is no allow's to undo.

use agentd_policy::hosts::HostName;
use agentd_relay::http::{Connection as Requests, Mode, Step};
use agentd_relay::proxy::Host;

use super::copy;
use super::end::End;
use super::judge::{self, First, Manner, Opening, Refusal};
use super::tcp::Connection;
use crate::Endpoint;

/// What the beginning shows.
enum Shown {
    /// Not enough yet.
    Part,
    /// This name.
    Name(HostName, Manner),
    /// None, and none will be looked for.
    Nobody,
}

/// Carries it, `held` first. No byte waits for those behind it: what completes a denied name does not go on.
pub async fn carry(connection: &Connection, server: &Endpoint, mut held: Vec<u8>) -> Result<(), End> {
    let (mut up, mut down) = connection.ways(server);
    let beginning = async {
        let (mut opening, mut sent) = (Opening::default(), 0);
        loop {
            match shown(&mut opening, &held) {
                Shown::Part => {}
                Shown::Name(name, manner) => match judge::denied(&connection.gate.plan(), &name) {
                    Some(rule) => return Err(End::from(refused(manner, rule, &name))),
                    None => break,
                },
                Shown::Nobody => break,
            }
            up.write(&held[sent..]).await?;
            sent = held.len();
            if copy::read(&connection.client, &mut held, copy::CHUNK).await? == 0 {
                return Ok(up.end()?);
            }
        }
        up.write(&held[sent..]).await?;
        drop(held);
        Ok(up.drain().await?)
    };
    tokio::try_join!(beginning, async { Ok(down.drain().await?) })?;
    Ok(())
}

fn shown(opening: &mut Opening, held: &[u8]) -> Shown {
    match opening.look(held) {
        Ok(None) => Shown::Part,
        Ok(Some(First::Tls(hello, _))) => match hello.name {
            Some(name) => Shown::Name(name, Manner::Tls),
            None => Shown::Nobody,
        },
        Ok(Some(First::Http)) => match Requests::new(Mode::Origin).client(held) {
            Ok(Step::NeedMore) => Shown::Part,
            Ok(Step::Head(head)) => match head.authority.host {
                Host::Name(name) => Shown::Name(name, Manner::Plain),
                Host::Address(_) => Shown::Nobody,
            },
            // Whatever else it is, the rule is for it.
            Ok(_) | Err(_) => Shown::Nobody,
        },
        Ok(Some(First::Http2 | First::Other(_) | First::Spoken(_) | First::Waiting)) | Err(_) => {
            Shown::Nobody
        }
    }
}

fn refused(manner: Manner, rule: String, name: &HostName) -> Refusal {
    let why = format!("{name} is denied");
    Refusal { name: Some(name.to_string()), ..Refusal::new(manner, rule, why) }
}
