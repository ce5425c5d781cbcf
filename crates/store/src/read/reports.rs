//! What moderators read: the queue of reports, and the messages around one.

use switchboard_protocol::{
    ConversationId, ListedReport, ReasonCount, ReportAction, ReportId, ReportReason, Reporter, Seq,
    Timestamp, UserId,
};

use super::listing::{ListLookups, ListingInProgress, signed};
use super::{LookupResult, PageResult, Reader};
use crate::held::conversation_of;
use crate::record::ConversationKey;
use crate::refusal::Refusal;
use crate::report::{
    COUNT_REASONS, COUNT_UNDECIDED, Fields, ListReports, SELECT_PAGE, SELECT_REPORTERS, UndecidedReports,
    state_from_number, state_number,
};

/// How many reports a step of a list reads.
const REPORTS_PER_STEP: usize = 100;

impl<L: ListLookups> Reader<'_, L> {
    /// Makes one step of `reports`; the first step has no `list`.
    pub(crate) fn list_reports(
        &self,
        query: &ListReports,
        list: Option<&ListingInProgress<ListedReport>>,
    ) -> LookupResult<ListingInProgress<ListedReport>, L> {
        let limit = self.limits.page_size(query.limit) as usize;
        let mut list = list.cloned().unwrap_or_else(|| ListingInProgress::new(query.after, self.limits));
        let (first, last) = query.state.map_or((0, 2), |state| (state_number(state), state_number(state)));
        let most = i64::try_from(REPORTS_PER_STEP).unwrap_or(i64::MAX);
        let after = signed(list.next());
        let values = [first.into(), last.into(), after.into(), most.into()];
        let rows = self.rows.report_rows(SELECT_PAGE, &values)?;
        for row in &rows {
            let report = self.listed_report(query, row)?;
            if !list.add(row.number(0).unsigned_abs(), report, limit) {
                break;
            }
        }
        Ok(list.end_step_of(rows.len(), REPORTS_PER_STEP))
    }

    /// Counts the reports that wait for a decision.
    pub(crate) fn undecided_reports(&self) -> LookupResult<UndecidedReports, L> {
        let rows = self.rows.report_rows(COUNT_UNDECIDED, &[i64::from(UndecidedReports::MOST).into()])?;
        let counted = rows.first().map(|row| (row.number(0), row.time(1)));
        let (count, oldest) = counted.unwrap_or_default();
        Ok(UndecidedReports { count: u32::try_from(count).unwrap_or(u32::MAX), oldest })
    }

    /// The report of a row, unless the query leaves it out or its user cannot be read.
    fn listed_report(&self, query: &ListReports, row: &Fields) -> LookupResult<Option<ListedReport>, L> {
        let user = row.text(2).and_then(|name| UserId::parse(name).ok());
        let is_listed = |user: &UserId| {
            query.user.as_ref().is_none_or(|wanted| wanted == user)
                && query.visible.as_ref().is_none_or(|pattern| pattern.matches(user))
        };
        let Some(user) = user.filter(is_listed) else { return Ok(None) };
        let id = row.number(0);
        let reasons = self.rows.report_rows(COUNT_REASONS, &[id.into()])?;
        let most = i64::try_from(query.reporters).unwrap_or(i64::MAX);
        let reporters = self.rows.report_rows(SELECT_REPORTERS, &[id.into(), most.into()])?;
        let is_held = row.number(13) != 0;
        let is_of_message = row.number(12) != 0 && !is_held;
        Ok(Some(ListedReport {
            report: ReportId(id.unsigned_abs()),
            state: state_from_number(row.number(1)),
            conversation: conversation_of(&user, row.text(3), row.text(14)),
            user,
            held: is_held,
            target: is_of_message.then(|| Seq(row.number(4).unsigned_abs())),
            snapshot: row.text(5).and_then(|json| serde_json::from_str(json).ok()),
            reasons: reasons.iter().filter_map(reason_count).collect(),
            reporters: reporters.iter().filter_map(reporter).collect(),
            at: Timestamp::from_millis(row.number(6)),
            moderator: row.text(7).and_then(|name| UserId::parse(name).ok()),
            claimed: row.time(8),
            decided: row.time(9),
            action: row.text(10).and_then(ReportAction::parse),
            note: row.text(11).map(str::to_owned),
        }))
    }

    /// The messages around an event, for a moderator. No membership is asked for.
    pub(crate) fn moderator_history(&self, name: &ConversationId, around: Seq) -> PageResult<L> {
        let key = self.rows.find_conversation(name)?.ok_or_else(Refusal::not_found)?;
        let rows = self.rows.conversations_after(ConversationKey(key.0 - 1), 1)?;
        let found = rows.into_iter().find(|(found, _)| *found == key).and_then(|(_, found)| found);
        let conversation = found.filter(|found| !found.ended).ok_or_else(Refusal::not_found)?;
        let head = conversation.head;
        self.messages_around(conversation, head, around)
    }
}

fn reason_count(row: &Fields) -> Option<ReasonCount> {
    let reason = ReportReason::parse(row.text(0)?)?;
    Some(ReasonCount { reason, count: row.number(1).unsigned_abs() })
}

fn reporter(row: &Fields) -> Option<Reporter> {
    Some(Reporter {
        user: UserId::parse(row.text(0)?).ok()?,
        reason: ReportReason::parse(row.text(1)?)?,
        text: row.text(2).map(str::to_owned),
        at: Timestamp::from_millis(row.number(3)),
    })
}
