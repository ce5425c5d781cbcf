//! Numbers the writes of a connection. By these numbers the server stores the writes in order.

use std::collections::BTreeMap;

use switchboard_protocol::reply::{Reply, ServerFrame};
use switchboard_protocol::{CommandId, WriteNumber};

/// The writes of a connection that are neither stored nor refused for good (unsettled). A write's number is its `id`.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    /// The number of the last stored write.
    stored: i64,
    unsettled: BTreeMap<i64, UnsettledWrite>,
}

#[derive(Debug)]
struct UnsettledWrite {
    /// Whether the server has refused the write, which was not sent again since then.
    refused: bool,
}

impl Writes {
    /// Returns the numbers for a new write, which follows all unsettled writes. If all unsettled writes were refused, the client
    /// gives them up first.
    pub(crate) fn number_new_write(&mut self, id: i64) -> WriteNumber {
        if !self.has_unanswered() {
            self.unsettled.clear();
        }
        let after = self.unsettled.last_key_value().map_or(self.stored, |(&last, _)| last);
        self.unsettled.insert(id, UnsettledWrite { refused: false });
        number(id, after)
    }

    /// Returns the numbers for a write that is sent again; `None` if it was given up. It follows the last write before it that
    /// waits for its answer, or else the last stored one. The client gives up the refused writes before it: their program has not
    /// sent them again, and a write that followed one of them would be refused for ever.
    pub(crate) fn number_resent_write(&mut self, id: i64) -> Option<WriteNumber> {
        self.unsettled.get_mut(&id)?.refused = false;
        self.unsettled.retain(|&other, write| other > id || !write.refused);
        let after = self.unsettled.range(..id).next_back().map_or(self.stored, |(&last, _)| last);
        Some(number(id, after))
    }

    fn has_unanswered(&self) -> bool {
        self.unsettled.values().any(|write| !write.refused)
    }

    pub(crate) fn on_frame(&mut self, frame: &ServerFrame) {
        match frame {
            ServerFrame::Reply(Reply::Ok(ok)) => {
                if let Some(CommandId::Number(id)) = ok.id
                    && self.unsettled.remove(&id).is_some()
                {
                    self.stored = self.stored.max(id);
                }
            }
            ServerFrame::Reply(Reply::Error(failure)) => {
                let Some(CommandId::Number(id)) = failure.id else { return };
                if !failure.retryable {
                    self.unsettled.remove(&id);
                } else if let Some(write) = self.unsettled.get_mut(&id) {
                    write.refused = true;
                }
            }
            _ => {}
        }
    }
}

fn number(n: i64, after: i64) -> WriteNumber {
    WriteNumber { n: n.unsigned_abs(), after: after.unsigned_abs() }
}

#[cfg(test)]
mod tests {
    use switchboard_protocol::ErrorCode;
    use switchboard_protocol::reply::{Failure, Ok, OkBody};

    use super::*;

    fn stored(id: i64) -> ServerFrame {
        ServerFrame::Reply(Reply::Ok(Ok { id: Some(CommandId::Number(id)), body: OkBody::Done {} }))
    }

    fn refused(id: i64, code: ErrorCode) -> ServerFrame {
        let (id, retryable) = (Some(CommandId::Number(id)), code.retryable());
        let message = String::new();
        let (retry_after, field, conversation, until, permission) = Default::default();
        let failure =
            Failure { id, code, retryable, message, retry_after, field, conversation, until, permission };
        ServerFrame::Reply(Reply::Error(failure))
    }

    #[test]
    fn a_write_that_is_sent_again_does_not_follow_a_refused_one() {
        let mut writes = Writes::default();
        assert_eq!(
            (writes.number_new_write(1), writes.number_new_write(2), writes.number_new_write(3)),
            (number(1, 0), number(2, 1), number(3, 2))
        );
        writes.on_frame(&refused(1, ErrorCode::Unavailable));
        writes.on_frame(&refused(2, ErrorCode::Unavailable));
        assert_eq!(writes.number_resent_write(2), Some(number(2, 0)), "3 waits still, and 1 is given up");
        assert_eq!(writes.number_resent_write(1), None);
        writes.on_frame(&refused(3, ErrorCode::Unavailable));
        assert_eq!(writes.number_resent_write(3), Some(number(3, 2)), "2 waits");
    }

    #[test]
    fn a_write_follows_the_last_one_that_waits_or_is_stored() {
        let mut writes = Writes::default();
        assert_eq!(writes.number_new_write(1), number(1, 0));
        assert_eq!(writes.number_new_write(3), number(3, 1));
        writes.on_frame(&stored(1));
        assert_eq!(writes.number_new_write(4), number(4, 3), "it waits still");
        writes.on_frame(&refused(3, ErrorCode::Forbidden));
        writes.on_frame(&stored(4));
        assert_eq!(writes.number_new_write(5), number(5, 4));
    }

    #[test]
    fn a_refused_write_keeps_its_place_until_it_is_given_up() {
        let mut writes = Writes::default();
        for id in 1..=3 {
            writes.number_new_write(id);
        }
        writes.on_frame(&stored(1));
        writes.on_frame(&refused(2, ErrorCode::RateLimited));
        assert_eq!(writes.number_new_write(4), number(4, 3), "3 waits for its answer, and follows 2");
        writes.on_frame(&refused(3, ErrorCode::Unavailable));
        writes.on_frame(&refused(4, ErrorCode::Unavailable));
        assert_eq!(writes.number_resent_write(2), Some(number(2, 1)));
        assert_eq!(writes.number_resent_write(3), Some(number(3, 2)));
        writes.on_frame(&refused(2, ErrorCode::RateLimited));
        writes.on_frame(&refused(3, ErrorCode::Unavailable));
        assert_eq!(writes.number_resent_write(4), Some(number(4, 1)), "those before it are given up");
        assert_eq!(writes.number_resent_write(2), None);
        writes.on_frame(&refused(4, ErrorCode::Unavailable));
        assert_eq!(writes.number_new_write(5), number(5, 1), "and so is this one");
        assert_eq!(writes.number_resent_write(4), None);
    }
}
