//! The trust anchors of resolvers over TLS: the site's CA bundle, a file that the launcher has opened.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use agentd_policy::config::MAX_CA_BUNDLE;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::{ClientConfig, RootCertStore};

/// Sessions of TLS that can be taken up again, of all resolvers.
const MAX_RESUMED: usize = 16;

/// Read when a resolver is first asked: what a session does not need it does not have in memory.
pub struct TrustAnchors(Mutex<State>);

enum State {
    File(Option<OwnedFd>),
    Read(Result<Arc<ClientConfig>, Arc<TrustError>>),
}

/// Why there are no trust anchors.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("no CA bundle came")]
    Missing,
    #[error("the CA bundle cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("the CA bundle is longer than {MAX_CA_BUNDLE} bytes")]
    TooLong,
    #[error("the CA bundle: {0}")]
    Pem(#[from] pem::Error),
    /// With the number of those that cannot be read.
    #[error("the CA bundle: no certificate in it, and {0} that cannot be read")]
    Empty(usize),
    #[error("the CA bundle: {0}")]
    Tls(#[from] rustls::Error),
}

impl TrustAnchors {
    /// In `file`, if there is one.
    pub fn new(file: Option<OwnedFd>) -> Self {
        Self(Mutex::new(State::File(file)))
    }

    /// The TLS configuration that accepts certificates of these trust anchors.
    ///
    /// # Errors
    /// Why there are no trust anchors; the same ever after.
    pub fn config(&self) -> Result<Arc<ClientConfig>, Arc<TrustError>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let config = match &mut *state {
            State::Read(config) => return config.clone(),
            State::File(file) => file.take().ok_or(TrustError::Missing).and_then(read).map_err(Arc::new),
        };
        *state = State::Read(config.clone());
        config
    }
}

fn read(file: OwnedFd) -> Result<Arc<ClientConfig>, TrustError> {
    let mut text = Vec::new();
    std::fs::File::from(file).take(MAX_CA_BUNDLE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_CA_BUNDLE {
        return Err(TrustError::TooLong);
    }
    config(&text)
}

fn config(text: &[u8]) -> Result<Arc<ClientConfig>, TrustError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let mut roots = RootCertStore::empty();
    // One that is of an old kind is no trust anchor; the others are.
    let (good, bad) = roots.add_parsable_certificates(certificates?);
    if good == 0 {
        return Err(TrustError::Empty(bad));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = config?.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(MAX_RESUMED);
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_vouches_for_nobody_is_an_error() {
        let error = |text: &[u8]| config(text).err().unwrap().to_string();
        assert!(error(b"").contains("no certificate in it, and 0"));
        let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(error(no_certificate.as_bytes()).contains("and 1 that cannot be read"));
        assert!(
            error(b"-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n")
                .starts_with("the CA bundle")
        );
        let trust = TrustAnchors::new(None);
        for _ in 0..2 {
            assert!(matches!(trust.config().err().as_deref(), Some(TrustError::Missing)));
        }
    }

    #[test]
    fn a_file_is_read_once() {
        // The file is the host's; one without certificates cannot be used by any program.
        let Ok(file) = std::fs::File::open("/etc/ssl/certs/ca-certificates.crt") else {
            eprintln!("not run: this host has no CA bundle");
            return;
        };
        let trust = TrustAnchors::new(Some(file.into()));
        let first = trust.config().unwrap();
        assert!(Arc::ptr_eq(&first, &trust.config().unwrap()));
    }
}
