//! `knarr image`: the images of a running daemon, as an operator handles them, over its own service on its socket.
//!
//! What a command finds goes to standard output, for people as a table, for programs with `--json`; progress and errors go to
//! standard error. The exit code is 0 if everything that was asked for has been done.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use tonic::transport::Channel;

use super::endpoint::{ClientError, Endpoint};
use crate::own_service::v1;
use crate::own_service::v1::images_client::ImagesClient;

mod archive;
mod check;
mod history;
mod inspect;
mod ls;
mod mount;
mod progress;
mod pull;
mod rm;
mod table;
mod transfer;

/// A client of the service.
type Client = ImagesClient<Channel>;
type Outcome<T> = Result<T, Box<dyn Error>>;

/// `knarr image`.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    #[command(flatten)]
    endpoint: Endpoint,
    #[command(subcommand)]
    command: ImageCommand,
}

/// What to do with images.
#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// List images, with what they take on the disk
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Pull an image, or bring it up to date
    Pull(PullArgs),
    /// Remove images; by a tag only that, as long as the image has others
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Tell all of images: configuration, manifest, layers, who uses them
    Inspect {
        /// Names or ids
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Look at every byte of images; what is damaged is fetched again
    Check(CheckArgs),
    /// Show how an image was built
    History(HistoryArgs),
    /// Write images to an archive
    Save(SaveArgs),
    /// Read images from an archive: an OCI layout or one of `docker save`, gzip and zstd too
    Load(LoadArgs),
    /// Remove images that nothing uses
    Prune(PruneArgs),
    /// Mount an image on a directory, read-only, or list what is mounted
    Mount(MountArgs),
    /// Unmount an image
    #[command(visible_alias = "umount")]
    Unmount {
        /// The directory
        directory: PathBuf,
    },
}

#[derive(Debug, Args)]
struct LsArgs {
    /// Only this one, by a name or an id
    image: Option<String>,
    /// For programs
    #[arg(long)]
    json: bool,
    /// Ids alone
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
    /// Names with digests, too
    #[arg(long)]
    digests: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
}

/// `knarr pull`, `knarr image pull`.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Name of the image
    image: String,
    /// For the registry; without the password it is read from standard input
    #[arg(long, value_name = "USER[:PASSWORD]")]
    creds: Option<String>,
    /// No progress
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Args)]
struct RmArgs {
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Also what is pinned or used; containers keep what they have
    #[arg(long, short)]
    force: bool,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Names or ids; all images without
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct HistoryArgs {
    /// Name or id
    image: String,
    /// For programs
    #[arg(long)]
    json: bool,
    /// Whole commands
    #[arg(long)]
    no_trunc: bool,
}

#[derive(Debug, Args)]
struct SaveArgs {
    /// Names or ids; those named by a tag are saved under it
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// The file; standard output without
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Form of the archive: OCI layout (which Docker reads too), or Docker's old one
    #[arg(long, value_enum, default_value_t = Form::Oci)]
    format: Form,
    /// How layers are compressed
    #[arg(long, value_enum, default_value_t = Compress::None)]
    compress: Compress,
    /// No progress; there is none either where it goes into a pipe
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Oci,
    Docker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Compress {
    None,
    Gzip,
    Zstd,
}

#[derive(Debug, Args)]
struct LoadArgs {
    /// The archive, or the directory of an OCI layout; standard input without
    #[arg(long, short, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Name of an image that has none in the archive, or only a tag, which then follows this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// For programs
    #[arg(long)]
    json: bool,
    /// No progress
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Args)]
struct PruneArgs {
    /// All that no container uses, and not only those without a tag
    #[arg(long, short)]
    all: bool,
    /// Only tell what would be removed
    #[arg(long)]
    dry_run: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct MountArgs {
    /// Name or id
    #[arg(requires = "directory")]
    image: Option<String>,
    /// An existing directory; the mount stays until it is unmounted, whatever becomes of the image or the daemon
    directory: Option<PathBuf>,
    /// For programs, when listing
    #[arg(long)]
    json: bool,
}

/// Runs the sub-command; the error is for the person at the terminal.
pub(crate) fn run(arguments: ImageArgs) -> Outcome<ExitCode> {
    let ImageArgs { endpoint, command } = arguments;
    crate::finish(crate::executor()?, dispatch(&endpoint, command))
}

/// Runs `knarr pull`.
pub(crate) fn pull(endpoint: &Endpoint, arguments: PullArgs) -> Outcome<ExitCode> {
    crate::finish(crate::executor()?, dispatch(endpoint, ImageCommand::Pull(arguments)))
}

async fn dispatch(endpoint: &Endpoint, command: ImageCommand) -> Outcome<ExitCode> {
    let client = ImagesClient::new(endpoint.connect().await?).max_decoding_message_size(ANSWER_BYTES);
    match command {
        ImageCommand::Ls(arguments) => ls::run(client, arguments).await,
        ImageCommand::Pull(arguments) => pull::run(client, arguments).await,
        ImageCommand::Rm(arguments) => return rm::remove(client, arguments).await,
        ImageCommand::Inspect { images } => return inspect::run(client, images).await,
        ImageCommand::Check(arguments) => return check::run(client, arguments).await,
        ImageCommand::History(arguments) => history::run(client, arguments).await,
        ImageCommand::Save(arguments) => archive::save(client, arguments).await,
        ImageCommand::Load(arguments) => archive::load(client, arguments).await,
        ImageCommand::Prune(arguments) => rm::prune(client, arguments).await,
        ImageCommand::Mount(arguments) => mount::mount(client, arguments).await,
        ImageCommand::Unmount { directory } => mount::unmount(client, directory).await,
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Bytes of an answer that are read: a configuration and a manifest have 8 MiB each, at most.
const ANSWER_BYTES: usize = 24 << 20;

async fn inspected(client: &mut Client, image: String) -> Result<v1::InspectImageResponse, ClientError> {
    Ok(client.inspect(v1::InspectImageRequest { image }).await?.into_inner())
}
