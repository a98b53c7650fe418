//! The images of a test, in a directory of their own.

use std::io::{self, Cursor, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use image_service::{
    ArchiveForm, Compression, Config, Digest, Error, Images, Limits, LoadRequest, LoadedImage, SaveRequest,
};
use tempfile::TempDir;

/// The images.
pub(crate) struct Store {
    pub(crate) dir: TempDir,
    pub(crate) images: Images,
}

impl Store {
    pub(crate) fn new() -> Store {
        Store::bounded(Limits::default())
    }

    pub(crate) fn bounded(limits: Limits) -> Store {
        let dir = tempfile::Builder::new().prefix("knarr-archives-").tempdir().unwrap();
        let images = open(&dir, limits);
        Store { dir, images }
    }

    /// The same directory opened again, as a started daemon does.
    pub(crate) fn reopen(self) -> Store {
        let Store { dir, images } = self;
        drop(images);
        let images = open(&dir, Limits::default());
        Store { dir, images }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    pub(crate) async fn load(&self, archive: Vec<u8>) -> Result<Vec<LoadedImage>, Error> {
        self.load_as(archive, None).await
    }

    pub(crate) async fn load_as(
        &self,
        archive: Vec<u8>,
        name: Option<&str>,
    ) -> Result<Vec<LoadedImage>, Error> {
        let request = LoadRequest { name: name.map(str::to_owned) };
        self.images.load(request, Box::new(Cursor::new(archive))).await
    }

    pub(crate) async fn save(
        &self,
        images: &[&str],
        (form, compression): (ArchiveForm, Compression),
    ) -> Result<Vec<u8>, Error> {
        let images = images.iter().map(|image| (*image).to_owned()).collect();
        let out = Shared::default();
        self.images.save(SaveRequest { images, form, compression }, Box::new(out.clone())).await?;
        Ok(out.take())
    }

    /// What is in the store's directories that come and go.
    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        let entries =
            |dir: &str| std::fs::read_dir(self.path(dir)).unwrap().map(|entry| entry.unwrap().path());
        entries("root/images/ingest").filter(|path| path.file_name().unwrap() != "blobs").collect()
    }

    /// The number of layers in the store.
    pub(crate) fn layers(&self) -> usize {
        std::fs::read_dir(self.path("root/images/layers/sha256")).unwrap().count()
    }

    /// Takes a layer away, as nobody should.
    pub(crate) fn lose(&self, archive: &[u8]) {
        let layers = self.path("root/images/layers/sha256");
        std::fs::remove_dir_all(layers.join(Digest::of(archive).hex())).unwrap();
    }
}

fn open(dir: &TempDir, limits: Limits) -> Images {
    let config = Config::new(dir.path().join("root"), dir.path().join("certs.d"));
    Images::open(Config { limits, ..config }).unwrap()
}

/// Bytes that are written on another thread.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
