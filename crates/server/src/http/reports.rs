//! `POST /v1/reports`, `/v1/resolve` and `/v1/moderate/history`: moderators read what users report, and decide.
//!
//! A decision and everything that it does are one transaction: the report, the event in the room or the ban, and the entries of the
//! feed. After that, the author and those who made the report get a `notice`, if they are connected.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use schemars::{JsonSchema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use switchboard_protocol::reply::{Message, OkBody};
use switchboard_protocol::{
    ConversationId, Limits, ListedReport, REPORT, ReportAction, ReportId, ReportState, Seq, Signal,
    Timestamp, UserId, read_object,
};

use super::api::{check_send, read_authenticated};
use super::call::{Done, Maker, Operation, respond, schema, store_for_back_end};
use super::moderator::Moderator;
use crate::denial::Denied;
use crate::services::Services;
use switchboard_store::Change;
use switchboard_store::ban::Ban;
use switchboard_store::grant::Scope;
use switchboard_store::listing::Listing;
use switchboard_store::refusal::Refusal;
use switchboard_store::report::{Decision, ListReports, ModeratorRead, ReportChange};
use switchboard_store::request::check_words;

/// `reports`: the reports, by number. A page may be empty although there is more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Reports {
    /// Only reports in this state; without it, all.
    state: Option<ReportState>,
    /// Only reports of this user and of what they wrote; without it, of all.
    user: Option<UserId>,
    /// `next` of the page before; absent for the first page.
    #[serde(default)]
    after: u64,
    /// The most reports; a page also ends at `page_bytes`.
    limit: Option<u32>,
}

/// A page of reports.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ReportList {
    /// The reports, by number.
    reports: Vec<ListedReport>,
    /// What the next call sends as `after`.
    next: u64,
    /// Whether there is more.
    more: bool,
}

/// What a moderator does about a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Resolution {
    /// The moderator takes the report; no other moderator decides it.
    Claim,
    /// Nothing is done.
    None,
    /// The message is deleted.
    Delete,
    /// The held message is stored in the log.
    Release,
    /// The held message is never stored in the log.
    Reject,
    /// The user is banned from the installation.
    Ban,
    /// The user only reads in the room.
    Silence,
    /// The user is removed from the room.
    Remove,
}

/// `resolve`: claims or decides a report.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Resolve {
    /// The report.
    report: ReportId,
    /// What is done.
    action: Resolution,
    /// When a ban or a silence ends; without it, it has no end.
    until: Option<Timestamp>,
    /// What only moderators read.
    note: Option<String>,
    /// What the author reads.
    tell: Option<String>,
    /// The moderator, if a back end decides. Without it, the name of the API key.
    #[serde(rename = "as")]
    acts_as: Option<UserId>,
}

/// `moderate/history`: the messages around an event. The call is noted in the audit log.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ModerateHistory {
    /// The conversation.
    conversation: ConversationId,
    /// The event.
    around: Seq,
    /// Why the moderator reads it.
    reason: String,
    /// The moderator, if a back end reads.
    #[serde(rename = "as")]
    acts_as: Option<UserId>,
}

/// The messages around an event, as in `history`.
#[derive(Debug, Serialize, JsonSchema)]
struct Page {
    /// The conversation.
    conversation: ConversationId,
    /// The messages, by ascending `seq`.
    messages: Vec<Message>,
    /// The last event of the log.
    head: Seq,
    /// Whether there are messages before these.
    more: bool,
    /// Whether there are messages after these.
    more_after: bool,
}

/// The calls of this file.
pub(super) fn operations(generator: &mut SchemaGenerator) -> [Operation; 3] {
    [
        Operation {
            name: "reports",
            summary: "Lists what users have reported, by number.",
            scope: Scope::Moderate,
            request: schema::<Reports>(generator),
            answer: Some(schema::<ReportList>(generator)),
        },
        Operation {
            name: "resolve",
            summary: "Claims or decides a report.",
            scope: Scope::Moderate,
            request: schema::<Resolve>(generator),
            answer: None,
        },
        Operation {
            name: "moderate/history",
            summary: "Reads the messages around one as a moderator, which the audit log notes.",
            scope: Scope::Moderate,
            request: schema::<ModerateHistory>(generator),
            answer: Some(schema::<Page>(generator)),
        },
    ]
}

pub(super) async fn reports(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let answered = async {
        let request = read_authenticated(&services, &parts, &mut body).await?;
        let moderator = request.moderator(Scope::Moderate)?;
        services.require_feature(REPORT)?;
        check_send(&services, &moderator.payer, moderator.grant.as_ref(), 1)?;
        let Reports { state, user, after, limit } = read_object(&request.text).map_err(Refusal::from)?;
        let (visible, reporters) = (moderator.visible(), Limits::MAX_LISTED_REPORTERS);
        let query = ListReports { state, user, after, limit, reporters, visible };
        let Listing { items: mut reports, next, more } = services.store.list_reports(query).await?;
        if moderator.reads_no_text() {
            reports.iter_mut().for_each(remove_text);
        }
        Ok((ReportList { reports, next, more }, request.permit))
    };
    let answered = answered.await;
    respond(&services, &parts, body, answered)
}

fn remove_text(report: &mut ListedReport) {
    report.snapshot = None;
    report.reporters.iter_mut().for_each(|reporter| reporter.text = None);
}

/// Answers once the decision is on stable storage.
pub(super) async fn resolve(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let answered = async {
        let request = read_authenticated(&services, &parts, &mut body).await?;
        let moderator = request.moderator(Scope::Moderate)?;
        services.require_feature(REPORT)?;
        let resolve: Resolve = read_object(&request.text).map_err(Refusal::from)?;
        check_send(&services, &moderator.payer, moderator.grant.as_ref(), 1)?;
        check_resolve(&resolve)?;
        let name = moderator.name(resolve.acts_as.clone())?;
        decide(&services, &moderator, name, resolve).await?;
        Ok((Done {}, request.permit))
    };
    let answered = answered.await;
    respond(&services, &parts, body, answered)
}

fn check_resolve(resolve: &Resolve) -> Result<(), Refusal> {
    check_words("note", resolve.note.as_deref(), Limits::MAX_REPORT_NOTE_BYTES)?;
    check_words("tell", resolve.tell.as_deref(), Limits::MAX_TELL_BYTES)?;
    let action = resolve.action;
    if resolve.until.is_some() && !matches!(action, Resolution::Ban | Resolution::Silence) {
        return Err(Refusal::bad_field("until", "until: only `ban` and `silence` have an end"));
    }
    let named = [("note", resolve.note.is_some()), ("tell", resolve.tell.is_some())];
    match named.into_iter().find(|(_, is_named)| *is_named && action == Resolution::Claim) {
        Some((field, _)) => Err(Refusal::bad_field(field, format!("{field}: it comes with the decision"))),
        None => Ok(()),
    }
}

/// Stores the decision, then does what is not stored.
async fn decide(
    services: &Services,
    moderator: &Moderator,
    name: UserId,
    resolve: Resolve,
) -> Result<(), Denied> {
    let found = find_report(services, moderator, resolve.report).await?;
    let action = match resolve.action {
        Resolution::Claim => None,
        Resolution::None => Some(ReportAction::None),
        Resolution::Delete => Some(ReportAction::Delete),
        Resolution::Release => Some(ReportAction::Release),
        Resolution::Reject => Some(ReportAction::Reject),
        Resolution::Ban => Some(ReportAction::Ban),
        Resolution::Silence => Some(ReportAction::Silence),
        Resolution::Remove => Some(ReportAction::Remove),
    };
    let decision = Decision {
        report: resolve.report,
        user: found.user.clone(),
        conversation: found.conversation.clone(),
        action,
        until: resolve.until,
        note: resolve.note,
        tell: resolve.tell.clone(),
    };
    let maker = Maker { by: Some(name.clone()), ..moderator.maker() };
    store_for_back_end(services, name, Change::Reports(Box::new(ReportChange::Resolve(decision))), maker)
        .await?;
    let Some(action) = action else { return Ok(()) };
    let until = resolve.until;
    // Read again: others may have reported it meanwhile. If that fails, the decision stands all the same.
    let decided = find_report(services, moderator, resolve.report).await.unwrap_or(found);
    send_notices(services, &decided, action, resolve.tell.clone()).await;
    if action == ReportAction::Ban {
        services.router.ban(decided.user, Ban { until, reason: resolve.tell, shadow: false }).await;
    }
    Ok(())
}

/// A report that the moderator sees, with all of those who made it and learn of the decision.
async fn find_report(
    services: &Services,
    moderator: &Moderator,
    report: ReportId,
) -> Result<ListedReport, Refusal> {
    let (visible, reporters) = (moderator.visible(), Limits::MAX_TOLD_REPORTERS);
    let after = report.0.saturating_sub(1);
    let query = ListReports { state: None, user: None, after, limit: Some(1), reporters, visible };
    let listing = services.store.list_reports(query).await?;
    let found = listing.items.into_iter().find(|found| found.report == report);
    found.ok_or_else(Refusal::not_found)
}

/// Signals the decision to the author, who does not learn who made the report, and to those who made it.
async fn send_notices(
    services: &Services,
    report: &ListedReport,
    action: ReportAction,
    tell: Option<String>,
) {
    let (conversation, target) = (report.conversation.clone(), report.target);
    // The clients of a held message's author wait for the decision.
    if tell.is_some() || action == ReportAction::Reject {
        let conversation = conversation.clone();
        let notice = Signal::Notice { action, report: None, conversation, target, text: tell };
        services.router.notify(report.user.clone(), notice).await;
    }
    for reporter in &report.reporters {
        let (conversation, report) = (conversation.clone(), Some(report.report));
        let notice = Signal::Notice { action, report, conversation, target, text: None };
        services.router.notify(reporter.user.clone(), notice).await;
    }
}

/// Answers once the audit log has the call on stable storage.
pub(super) async fn history(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let answered = async {
        let request = read_authenticated(&services, &parts, &mut body).await?;
        let moderator = request.moderator(Scope::Moderate)?;
        request.check_unlimited()?;
        services.require_feature(REPORT)?;
        check_send(&services, &moderator.payer, moderator.grant.as_ref(), 1)?;
        let asked = read_object(&request.text).map_err(Refusal::from)?;
        let ModerateHistory { conversation, around, reason, acts_as } = asked;
        check_words("reason", Some(&reason), Limits::MAX_READ_REASON_BYTES)?;
        let name = moderator.name(acts_as)?;
        let read = ModeratorRead { conversation: conversation.clone(), around: around.0, reason };
        let maker = Maker { by: Some(name.clone()), ..moderator.maker() };
        store_for_back_end(&services, name, Change::Reports(Box::new(ReportChange::NoteRead(read))), maker)
            .await?;
        let page: OkBody<_> = services.store.moderator_history(conversation, around).await?;
        Ok((page, request.permit))
    };
    let answered = answered.await;
    respond(&services, &parts, body, answered)
}

/// Reads how many reports wait for a decision, for the metrics. Called every minute.
pub(crate) fn count_undecided(services: &Arc<Services>) {
    let services = services.clone();
    services.tasks.clone().spawn(async move {
        if let Ok(queue) = services.store.undecided_reports().await {
            services.metrics.reports.set(queue);
        }
    });
}

/// Has the reports removed that were decided longer ago than they are kept. Called every minute.
pub(crate) fn purge(services: &Services) {
    // A purge that finds nothing commits without writing, and so would clear a fault that is still there.
    if services.store.write_fault().is_some() {
        return;
    }
    let before = services.clock.now().as_millis().saturating_sub(Limits::REPORT_KEEP_MS);
    let purge = ReportChange::Purge(Timestamp::from_millis(before));
    services.store.submit_unanswered(Change::Reports(Box::new(purge)));
}
