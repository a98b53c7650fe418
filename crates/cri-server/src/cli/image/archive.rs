//! `knarr image save` and `load`: files are opened here, by whoever runs the command; the daemon sees bytes alone.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::table::{print, print_json};
use super::transfer::Transfer;
use super::{Client, ClientError, Compress, Form, LoadArgs, Outcome, SaveArgs};
use crate::own_service::v1;

/// Bytes of a message.
const MESSAGE_BYTES: usize = 256 << 10;
/// Messages under way.
const MESSAGES: usize = 4;

pub(super) async fn save(mut client: Client, arguments: SaveArgs) -> Outcome<()> {
    let form = match arguments.format {
        Form::Oci => v1::ArchiveForm::Oci,
        Form::Docker => v1::ArchiveForm::Docker,
    };
    let compression = match arguments.compress {
        Compress::None => v1::Compression::None,
        Compress::Gzip => v1::Compression::Gzip,
        Compress::Zstd => v1::Compression::Zstd,
    };
    let mut output = Output::open(arguments.output.as_deref())?;
    let images = arguments.images;
    let request = v1::SaveImagesRequest { images, form: form.into(), compression: compression.into() };
    let archive = client.save(request).await.map_err(ClientError::from)?.into_inner();
    let transfer = Transfer::new(None);
    match output.is_file() && !arguments.quiet {
        true => transfer.shown(receive(archive, &mut output, &transfer)).await?,
        // What it is piped into may be showing how far it is, on the same terminal.
        false => receive(archive, &mut output, &transfer).await?,
    }
    output.finish()
}

async fn receive(mut archive: Streaming<v1::Bytes>, output: &mut Output, transfer: &Transfer) -> Outcome<()> {
    while let Some(v1::Bytes { bytes }) = archive.message().await.map_err(ClientError::from)? {
        output.write(&bytes)?;
        transfer.add(bytes.len());
    }
    Ok(())
}

/// Where an archive goes. A file gets its name when it is whole.
enum Output {
    Standard,
    /// What is no regular file: a pipe, a device.
    There(BufWriter<File>),
    Beside(NamedTempFile, PathBuf),
}

impl Output {
    fn open(path: Option<&Path>) -> Outcome<Output> {
        let Some(path) = path.filter(|path| *path != Path::new("-")) else {
            if io::stdout().is_terminal() {
                return Err("an archive is not for a terminal: name a file with --output".into());
            }
            return Ok(Output::Standard);
        };
        let failed = |cause: io::Error| format!("cannot write \"{}\": {cause}", path.display());
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            let file = File::options().write(true).open(path).map_err(failed)?;
            return Ok(Output::There(BufWriter::new(file)));
        }
        let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
        Ok(Output::Beside(NamedTempFile::new_in(parent).map_err(failed)?, path.to_owned()))
    }

    fn is_file(&self) -> bool {
        match self {
            Output::Standard => {
                let stdout = io::stdout().as_fd().try_clone_to_owned().map(File::from);
                stdout.and_then(|stdout| stdout.metadata()).is_ok_and(|metadata| metadata.is_file())
            }
            Output::There(_) => false,
            Output::Beside(..) => true,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Output::Standard => io::stdout().write_all(bytes),
            Output::There(file) => file.write_all(bytes),
            Output::Beside(file, _) => file.write_all(bytes),
        }
    }

    fn finish(self) -> Outcome<()> {
        match self {
            Output::Standard => io::stdout().flush()?,
            Output::There(mut file) => file.flush()?,
            Output::Beside(file, path) => {
                file.as_file().sync_all()?;
                file.persist(path)?;
            }
        }
        Ok(())
    }
}

pub(super) async fn load(mut client: Client, arguments: LoadArgs) -> Outcome<()> {
    let input = Input::open(arguments.input.as_deref())?;
    let (messages, sent) = mpsc::channel(MESSAGES);
    let first = v1::LoadImagesRequest { name: arguments.name.unwrap_or_default(), ..Default::default() };
    messages.send(first).await?;
    let transfer = Transfer::new(input.length());
    let of_reader = Arc::clone(&transfer);
    let reading =
        tokio::task::spawn_blocking(move || input.send(&Messages { to: &messages, transfer: &of_reader }));
    let loading = client.load(ReceiverStream::new(sent));
    let answer = if arguments.quiet { loading.await } else { transfer.shown(loading).await };
    // What the daemon says comes first: it may have refused an archive before its end.
    let images = answer.map_err(ClientError::from);
    let read = if images.is_ok() { reading.await? } else { Ok(()) };
    read?;
    let images = images?.into_inner().images;
    if arguments.json {
        let of = |image: &v1::LoadedImage| json!({ "id": image.id, "tags": image.names });
        return Ok(print_json(&Value::Array(images.iter().map(of).collect()))?);
    }
    let mut text = String::new();
    for image in &images {
        match image.names.is_empty() {
            true => text.push_str(&format!("loaded {}\n", image.id)),
            false => image.names.iter().for_each(|name| text.push_str(&format!("loaded {name}\n"))),
        }
    }
    Ok(print(text.as_bytes())?)
}

/// Where an archive comes from.
enum Input {
    Standard,
    File(File),
    /// A layout that is no archive yet.
    Directory(PathBuf),
}

impl Input {
    fn open(path: Option<&Path>) -> Outcome<Input> {
        let Some(path) = path.filter(|path| *path != Path::new("-")) else {
            if io::stdin().is_terminal() {
                return Err("an archive is not typed: name a file with --input".into());
            }
            return Ok(Input::Standard);
        };
        let failed = |cause: io::Error| format!("cannot read \"{}\": {cause}", path.display());
        let file = File::open(path).map_err(failed)?;
        match file.metadata().map_err(failed)?.is_dir() {
            true => Ok(Input::Directory(path.to_owned())),
            false => Ok(Input::File(file)),
        }
    }

    /// Sends all of it, and that this was all. Ends early when nobody wants more.
    fn send(self, mut out: &Messages<'_>) -> io::Result<()> {
        match self {
            Input::Standard => copy(&mut io::stdin().lock(), out)?,
            Input::File(mut file) => copy(&mut file, out)?,
            Input::Directory(path) => {
                let mut tar = tar::Builder::new(BufWriter::with_capacity(MESSAGE_BYTES, &mut out));
                tar.follow_symlinks(false);
                tar.append_dir_all("", &path)?;
                tar.into_inner()?.flush()?;
            }
        }
        out.send(v1::LoadImagesRequest { end: true, ..Default::default() })?;
        out.transfer.end();
        Ok(())
    }

    /// Bytes of it, where that is known.
    fn length(&self) -> Option<u64> {
        match self {
            Input::File(file) => {
                file.metadata().ok().filter(|about| about.is_file()).map(|about| about.len())
            }
            Input::Standard | Input::Directory(_) => None,
        }
    }
}

fn copy(from: &mut dyn Read, mut to: &Messages<'_>) -> io::Result<()> {
    let mut buffer = vec![0; MESSAGE_BYTES];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            count => to.write_all(&buffer[..count])?,
        }
    }
}

/// The way to the daemon, and who shows how much has gone it.
struct Messages<'a> {
    to: &'a mpsc::Sender<v1::LoadImagesRequest>,
    transfer: &'a Transfer,
}

impl Messages<'_> {
    fn send(&self, message: v1::LoadImagesRequest) -> io::Result<()> {
        self.to.blocking_send(message).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

impl Write for &Messages<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(MESSAGE_BYTES)];
        self.send(v1::LoadImagesRequest { bytes: bytes.to_vec(), ..Default::default() })?;
        self.transfer.add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
