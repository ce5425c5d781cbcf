//! The only check of presence, which is not stored: a dead node's users must be shown offline within lease, grace and a tolerance.

use std::time::Duration;

use anyhow::{Context, bail};
use switchboard_client::Client;
use switchboard_protocol::reply::ServerFrame;
use switchboard_protocol::{Create, RoomId, Signal, UserId, Watch};
use tokio::time::{Instant, timeout};

use super::Cluster;
use super::node::{LEASE, OFFLINE_GRACE};
use crate::record::Law;
use crate::world::hello;

/// How long it may take until a connected user is shown online.
const ONLINE_TIMEOUT: Duration = Duration::from_secs(30);

/// By how much lease and grace may be exceeded on a busy machine, until a user of a dead node is shown offline.
const OFFLINE_TOLERANCE: Duration = Duration::from_secs(5);

/// Kills a node, and waits until a watcher on another node receives that a user of the dead node is offline. Returns how long
/// that took, or `None` if it was too late.
pub(super) async fn a_dead_nodes_user_goes_offline(cluster: &Cluster) -> anyhow::Result<Option<Duration>> {
    let name = |name: &str| UserId::parse(name).context("a user's name");
    let (watcher, guest) = (name("watcher")?, name("guest")?);
    let [here, there, ..] = cluster.sites.as_slice() else { return Ok(None) };
    let (mut client, _) = Client::connect(cluster.world.direct_url(0), hello(&watcher)).await?;
    let members = vec![guest.clone()];
    let create = Create { room: RoomId::parse("#presence").ok(), title: None, public: false, members };
    client.call(create).await.context("cannot create a room for two")?;
    client.call(Watch { users: vec![guest.clone()] }).await.context("cannot watch the guest")?;
    let _guest = Client::connect(cluster.world.direct_url(1), hello(&guest)).await?;
    if !receives_presence(&mut client, &guest, true, ONLINE_TIMEOUT).await? {
        let what = format!(
            "a watcher on {} did not receive within {ONLINE_TIMEOUT:?} who is on {}",
            here.name, there.name
        );
        cluster.world.record.breach(Law::Stuck, what, &[], None);
        return Ok(None);
    }
    let mut node = there.node.lock().await;
    node.process.kill().await?;
    let (begun, most) = (Instant::now(), LEASE + OFFLINE_GRACE + OFFLINE_TOLERANCE);
    let in_time = receives_presence(&mut client, &guest, false, most).await?;
    let took = begun.elapsed();
    if !in_time {
        let what = format!("a user of {} is still shown online, {most:?} after it died", there.name);
        cluster.world.record.breach(Law::Stuck, what, &[], None);
    }
    client.close().await;
    node.start_until_listening().await?;
    Ok(in_time.then_some(took))
}

/// Waits for a signal with this presence of the user. Returns whether it arrived within the time.
async fn receives_presence(
    client: &mut Client,
    user: &UserId,
    expected: bool,
    within: Duration,
) -> anyhow::Result<bool> {
    let received = async {
        loop {
            match client.next().await {
                Some(Ok(ServerFrame::Signal(Signal::Presence { user: who, online, .. })))
                    if who == *user && online == expected =>
                {
                    return Ok(());
                }
                Some(Ok(_)) => {}
                other => bail!("the watcher lost the connection: {other:?}"),
            }
        }
    };
    match timeout(within, received).await {
        Ok(received) => received.map(|()| true),
        Err(_) => Ok(false),
    }
}
