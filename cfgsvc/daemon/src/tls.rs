//! As whom a daemon shows itself over TLS: a certificate and its key, from two files in PEM form.
//!
//! TLS 1.3 only: whatever speaks to these daemons has it, and transfers of zones may use no other
//! (RFC 9103 7.2). Every mistake names its file and what to do; nothing of a key is in any text.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use zeroize::Zeroizing;

pub use rustls::ServerConfig;

/// Octets of a file: a chain of ten certificates with large keys has a twentieth of that.
const FILE_OCTETS_MAX: u64 = 1 << 20;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    /// A file cannot be read.
    #[error("cannot read a file; see that it is there, and that this user may read it")]
    Read(#[source] std::io::Error),
    /// More than anybody needs.
    #[error("{} has more than {FILE_OCTETS_MAX} octets: is it the right file?", .0.display())]
    TooLarge(PathBuf),
    /// Something in it is broken.
    #[error("{} is broken; look at it with: openssl {command} -noout -in {}",
        file.display(), file.display())]
    Pem {
        /// The file.
        file: PathBuf,
        /// What shows more.
        command: &'static str,
        /// What is broken.
        source: pem::Error,
    },
    /// It has no certificate.
    #[error(
        "{} has no certificate: put the server's own first, then those between it and the root, \
         each from BEGIN CERTIFICATE to END CERTIFICATE",
        .0.display()
    )]
    NoCertificate(PathBuf),
    /// It has no key that could be read.
    #[error(
        "{} has no private key, or one with a password; write one without it with: openssl pkey \
         -in {}",
        .0.display(), .0.display()
    )]
    NoKey(PathBuf),
    /// The two do not belong together, or are of a kind that is not understood.
    #[error(
        "the certificate of {} cannot be used with the key of {}; do both print the same? openssl \
         x509 -noout -pubkey -in {}; openssl pkey -pubout -in {}",
        certificate.display(), key.display(), certificate.display(), key.display()
    )]
    Pair {
        /// The file of the certificate.
        certificate: PathBuf,
        /// That of the key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// Reads a certificate, with those between it and the root, and its key.
pub fn server_config(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsFileError> {
    let chain = certificates(certificate)?;
    let private = private_key(key)?;
    let pair = |source| TlsFileError::Pair {
        certificate: certificate.into(),
        key: key.into(),
        source,
    };
    ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(pair)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let text = read(file)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|source| TlsFileError::Pem {
        file: file.into(),
        command: "x509",
        source,
    })?;
    if chain.is_empty() {
        return Err(TlsFileError::NoCertificate(file.into()));
    }
    Ok(chain)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsFileError> {
    PrivateKeyDer::from_pem_slice(&read(file)?).map_err(|source| {
        if matches!(source, pem::Error::NoItemsFound) {
            return TlsFileError::NoKey(file.into());
        }
        TlsFileError::Pem {
            file: file.into(),
            command: "pkey",
            source,
        }
    })
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, TlsFileError> {
    let mut octets = Zeroizing::new(Vec::new());
    let opened = fs_err::File::open(file).map_err(TlsFileError::Read)?;
    let mut some = opened.take(FILE_OCTETS_MAX + 1);
    some.read_to_end(&mut octets).map_err(TlsFileError::Read)?;
    if octets.len() as u64 > FILE_OCTETS_MAX {
        return Err(TlsFileError::TooLarge(file.into()));
    }
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};

    use super::*;

    struct Files {
        directory: tempfile::TempDir,
    }

    impl Files {
        fn write(&self, name: &str, text: &str) -> PathBuf {
            let file = self.directory.path().join(name);
            fs_err::write(&file, text).expect("a file");
            file
        }

        /// What is said of these two, without where they are.
        fn refusal(&self, certificate: &str, key: &str) -> String {
            let certificate = self.write("cert.pem", certificate);
            let key = self.write("key.pem", key);
            let error = server_config(&certificate, &key).expect_err("refused");
            let directory = self.directory.path().display().to_string();
            error.to_string().replace(&directory, "DIR")
        }
    }

    fn pair() -> (String, String) {
        let names = vec!["ns1.example".to_owned()];
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(names).expect("a certificate");
        (cert.pem(), signing_key.serialize_pem())
    }

    #[test]
    fn certificate_and_its_key_are_taken_and_every_mistake_names_its_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = Files { directory };
        let (certificate, key) = pair();
        let chain = format!("text before it\n{certificate}{certificate}");
        let taken = server_config(&files.write("c", &chain), &files.write("k", &key));
        assert!(taken.is_ok(), "{taken:?}");

        let none = files.refusal(&key, &key);
        assert!(
            none.starts_with("DIR/cert.pem has no certificate: put"),
            "{none}"
        );
        let none = files.refusal(&certificate, &certificate);
        assert!(
            none.starts_with("DIR/key.pem has no private key, or one with"),
            "{none}"
        );
        let broken = files.refusal(&certificate[..certificate.len() / 2], &key);
        let expected =
            "DIR/cert.pem is broken; look at it with: openssl x509 -noout -in DIR/cert.pem";
        assert_eq!(broken, expected);
        let broken = files.refusal(&certificate, &key[..key.len() / 2]);
        assert!(
            broken.starts_with("DIR/key.pem is broken; look"),
            "{broken}"
        );
        let other = KeyPair::generate().expect("a key").serialize_pem();
        let foreign = files.refusal(&certificate, &other);
        let expected = "the certificate of DIR/cert.pem cannot be used with the key of DIR/key.pem; \
                        do both print the same? openssl x509 -noout -pubkey -in DIR/cert.pem; \
                        openssl pkey -pubout -in DIR/key.pem";
        assert_eq!(foreign, expected);
        let large = files.refusal(&" ".repeat((1 << 20) + 1), &key);
        assert!(
            large.starts_with("DIR/cert.pem has more than 1048576 octets"),
            "{large}"
        );
        let missing = server_config(
            Path::new("/nowhere/cert.pem"),
            Path::new("/nowhere/key.pem"),
        );
        let missing = missing.expect_err("it is not there");
        let source = std::error::Error::source(&missing)
            .expect("a cause")
            .to_string();
        assert!(source.contains("/nowhere/cert.pem"), "{source}");
    }
}
