//! Acknowledgements by a node that stores in PostgreSQL, compared with PostgreSQL alone, which writes the same rows.

use super::Context;
use super::ack::{measure, report_acks};
use crate::floor::append::measure_acks;
use crate::floor::postgres::{Database, Postgres, run_pgbench};
use crate::process::BOTH_CORES;
use crate::report::FigureName;
use crate::switchboard::Switchboard;
use crate::traffic::TEXT_BYTES;

/// The most connections of `pgbench`. PostgreSQL's default limit is 100, and more connections would only wait for each other.
const MAX_CLIENTS: usize = 64;

pub(crate) fn run(context: &mut Context<'_>, senders: &[usize]) -> anyhow::Result<()> {
    let Some(store) = context.store else { return Ok(()) };
    for round in 1..=context.rounds {
        for &count in senders {
            context.progress(&format!("ack: round {round} of {}, {count} senders", context.rounds));
            let database = Database::new(store)?;
            let floor = measure_acks(Postgres::new(&database, count, TEXT_BYTES)?, count, context.time)?;
            report_acks(context, "floor: PostgreSQL", count, &floor, None);
            drop(database);
            let database = Database::new(store)?;
            match run_pgbench(&database, count.min(MAX_CLIENTS), TEXT_BYTES, context.time)? {
                Some(found) => {
                    let scenario = format!("ack, {count} senders");
                    let name = |figure, unit| FigureName {
                        scenario: &scenario,
                        measured_server: "pgbench",
                        figure,
                        unit,
                    };
                    context.report.add(name("acks", "/s"), found.rate);
                    context.report.add(name("mean", "ms"), found.mean);
                }
                None => context.print_note("pgbench is not installed, so it is left out"),
            }
            drop(database);
            let database = Database::new(store)?;
            let server = Switchboard::start_on(database.url(), context.program, context.scratch, BOTH_CORES)?;
            let (ours, cpu) = measure(&server, count, context.time)?;
            report_acks(context, "switchboard", count, &ours, Some(cpu));
            drop(server);
        }
    }
    Ok(())
}
