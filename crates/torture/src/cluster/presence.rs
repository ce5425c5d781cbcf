//! Presence is soft and has no law but this one: who was on a node that died is shown offline, in time.

use std::time::Duration;

use anyhow::{Context, bail};
use switchboard_client::Client;
use switchboard_protocol::reply::ServerFrame;
use switchboard_protocol::{Create, RoomId, Signal, UserId, Watch};
use tokio::time::{Instant, timeout};

use super::Cluster;
use super::node::{GRACE, LEASE};
use crate::record::Law;
use crate::world::hello;

/// How long it takes at most until somebody who has come is shown online.
const COMING: Duration = Duration::from_secs(30);

/// How much later than the lease and the grace say somebody may be shown offline, on a machine that has other things to do.
const SLACK: Duration = Duration::from_secs(5);

/// Kills a node, and waits until a user who was on it is shown offline to one on another node. Returns how long it took, if it
/// happened in time.
pub(super) async fn a_dead_nodes_user_goes_offline(cluster: &Cluster) -> anyhow::Result<Option<Duration>> {
    let name = |name: &str| UserId::parse(name).context("a user's name");
    let (watcher, guest) = (name("watcher")?, name("guest")?);
    let [here, there, ..] = cluster.sites.as_slice() else { return Ok(None) };
    let (mut client, _) = Client::connect(cluster.world.direct(0), hello(&watcher)).await?;
    let members = vec![guest.clone()];
    let create = Create { room: RoomId::parse("#presence").ok(), title: None, public: false, members };
    client.call(create).await.context("a room for two")?;
    client.call(Watch { users: vec![guest.clone()] }).await.context("to watch somebody")?;
    let _guest = Client::connect(cluster.world.direct(1), hello(&guest)).await?;
    if !is_shown(&mut client, &guest, true, COMING).await? {
        let what = format!("{} was not told within {COMING:?} who is on {}", here.name, there.name);
        cluster.world.record.breach(Law::Stuck, what, &[], None);
        return Ok(None);
    }
    let mut node = there.node.lock().await;
    node.process.kill().await?;
    let (begun, most) = (Instant::now(), LEASE + GRACE + SLACK);
    let in_time = is_shown(&mut client, &guest, false, most).await?;
    let took = begun.elapsed();
    if !in_time {
        let what = format!("who was on {} is still shown online, {most:?} after it died", there.name);
        cluster.world.record.breach(Law::Stuck, what, &[], None);
    }
    client.close().await;
    node.comes_back().await?;
    Ok(in_time.then_some(took))
}

/// Whether the client is told so in time.
async fn is_shown(
    client: &mut Client,
    user: &UserId,
    wanted: bool,
    within: Duration,
) -> anyhow::Result<bool> {
    let told = async {
        loop {
            match client.next().await {
                Some(Ok(ServerFrame::Signal(Signal::Presence { user: who, online, .. })))
                    if who == *user && online == wanted =>
                {
                    return Ok(());
                }
                Some(Ok(_)) => {}
                other => bail!("whoever watches lost the connection: {other:?}"),
            }
        }
    };
    match timeout(within, told).await {
        Ok(told) => told.map(|()| true),
        Err(_) => Ok(false),
    }
}
