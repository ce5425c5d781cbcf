//! `switchboard config`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};

use super::{FileArgs, environment, output};
use crate::auth::Authenticator;
use crate::config::{Config, Mode, default_toml};

/// The flags of `config`.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Says whether `serve` could run with this configuration
    Check(FileArgs),
    /// Prints the configuration as resolved from every source, secrets masked
    Show {
        #[command(flatten)]
        file: FileArgs,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Prints a file with every setting, what it does and its default
    Default,
}

/// Checks or prints.
pub(super) fn run(args: ConfigArgs) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Check(file) => {
            let config = Config::load(Mode::Serve, &file.flags(), &environment())?;
            Authenticator::new(&config.auth)?;
            match &config.cluster {
                Some(cluster) => crate::check_engines(cluster)?,
                None => check_directory(&config.data)?,
            }
            output::line("the configuration is good")?;
        }
        What::Show { file, json: true } => output::line(&file.read()?.to_json()?.to_string())?,
        What::Show { file, json: false } => output::line(file.read()?.to_toml()?.trim_end())?,
        What::Default => output::line(default_toml()?.trim_end())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the directory can hold the database: it is one that can be written to, or can be made.
fn check_directory(data: &Path) -> anyhow::Result<()> {
    let absolute = std::path::absolute(data)?;
    let place = absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    ensure!(place.is_dir(), "`data` is {}, and {} is not a directory", data.display(), place.display());
    tempfile::tempfile_in(place).map(drop).with_context(|| {
        format!("`data` is {}, and nothing can be written to {}", data.display(), place.display())
    })
}
