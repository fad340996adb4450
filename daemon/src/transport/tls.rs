//! TLS 1.3 with raw public keys (RFC 7250) on both sides: a peer is its Ed25519 key.
//!
//! There are no certificates, so nothing that could expire, name a host or be signed by a third
//! party. The client pins the node's key; the node takes any key and asks its catalog afterwards.
//!
//! **Invariant:** whoever finished a handshake has proven the key that [`key_of_spki`] reads. Neither
//! side resumes a session: every connection proves both keys anew.

use std::sync::{Arc, OnceLock};

use baton_protocol::id::NodeId;
use baton_protocol::message::ALPN;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    SignatureScheme,
};

use super::TransportError;
use crate::identity::Identity;

/// Before the 32 bytes of an Ed25519 key in a `SubjectPublicKeyInfo` (RFC 8410, section 4): a
/// sequence of the algorithm 1.3.101.112 and a bit string.
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A public key as TLS carries it.
pub fn spki(key: &[u8; 32]) -> Vec<u8> {
    [&SPKI[..], key].concat()
}

/// The public key in a `SubjectPublicKeyInfo`; nothing where it is no Ed25519 key.
pub fn key_of_spki(der: &[u8]) -> Option<[u8; 32]> {
    der.strip_prefix(&SPKI)?.try_into().ok()
}

/// The key that a client expects, and the other one that it found.
#[derive(Debug)]
pub(crate) struct Pin {
    expected: NodeId,
    found: OnceLock<NodeId>,
}

impl Pin {
    pub(crate) fn new(expected: NodeId) -> Arc<Self> {
        Arc::new(Self { expected, found: OnceLock::new() })
    }

    /// The key of the peer, where it was not the expected one.
    pub(crate) fn found(&self) -> Option<NodeId> {
        self.found.get().copied()
    }
}

/// What a node needs to be dialled.
pub(crate) fn server_config(identity: &Identity) -> Result<rustls::ServerConfig, TransportError> {
    let provider = Arc::new(ring::default_provider());
    let key = certified_key(identity)?;
    let verifier = Arc::new(AnyDevice(Arc::clone(&provider)));
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TransportError::Tls)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// What a client needs to dial the node that `pin` names.
pub(crate) fn client_config(
    identity: &Identity,
    pin: Arc<Pin>,
) -> Result<rustls::ClientConfig, TransportError> {
    let provider = Arc::new(ring::default_provider());
    let key = certified_key(identity)?;
    let verifier = Arc::new(PinnedNode { pin, provider: Arc::clone(&provider) });
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TransportError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(config)
}

fn certified_key(identity: &Identity) -> Result<Arc<CertifiedKey>, TransportError> {
    let private = PrivatePkcs8KeyDer::from(identity.pkcs8());
    let key = ring::sign::any_eddsa_type(&private).map_err(TransportError::Tls)?;
    let public = CertificateDer::from(spki(identity.node().as_bytes()));
    Ok(Arc::new(CertifiedKey::new(vec![public], key)))
}

/// Accepts the one key that was pinned.
#[derive(Debug)]
struct PinnedNode {
    pin: Arc<Pin>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedNode {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = NodeId::from_bytes(peer_key(end_entity, intermediates)?);
        if found == self.pin.expected {
            return Ok(ServerCertVerified::assertion());
        }
        let _ = self.pin.found.set(found);
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, cert, signed, &self.provider)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Accepts every key whose owner proves it; none is an error.
#[derive(Debug)]
struct AnyDevice(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyDevice {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        peer_key(end_entity, intermediates).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, cert, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn peer_key(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<[u8; 32], Error> {
    match key_of_spki(end_entity) {
        Some(key) if intermediates.is_empty() => Ok(key),
        _ => Err(CertificateError::BadEncoding.into()),
    }
}

fn verify_signature(
    message: &[u8],
    cert: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    provider: &CryptoProvider,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls13_signature_with_raw_key(
        message,
        &SubjectPublicKeyInfoDer::from(cert.as_ref()),
        signed,
        &provider.signature_verification_algorithms,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_wrapping_and_nothing_else_is_a_key() {
        let key = [7; 32];
        assert_eq!(key_of_spki(&spki(&key)), Some(key));
        let mut rsa = spki(&key);
        rsa[8] = 0x71;
        assert_eq!(key_of_spki(&rsa), None);
        assert_eq!(key_of_spki(&spki(&key)[..43]), None);
        assert_eq!(key_of_spki(&[spki(&key), vec![0]].concat()), None);
    }

    #[test]
    fn the_wrapping_is_that_of_rustls() {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(folder.path()).unwrap();
        let key = certified_key(&identity).unwrap();
        let public = key.key.public_key().unwrap();
        assert_eq!(public.as_ref(), spki(identity.node().as_bytes()));
    }
}
