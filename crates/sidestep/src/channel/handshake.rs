//! How two strangers prove to each other that they know a key, without sending it.
//!
//! Each side challenges the other in turn, the one that listens first. What is sent are frames
//! of [`stream`](super::stream):
//!
//! ```text
//!     challenger                              prover
//!     #CHALLENGE# message         -->         MAC = HMAC(key, message)
//!     compares                    <--         {digest} MAC
//!     #WELCOME# or #FAILURE#      -->
//! ```
//!
//! A message begins with the name of a digest, as in `{sha256}`, and the name is part of what is
//! signed: nobody on the way can talk the two into a weaker one. Python up to 3.11 knows MD5
//! only: its messages are exactly 20 bytes long, and its answers are a bare MAC of 16 bytes.
//! Nothing in the newer form has one of these lengths, so the length tells the form.
//!
//! [`Handshake`] is the listening side as a state that bytes are fed to: it knows no socket, so
//! that many of them can go on at once, and TLS can be in between. Until it is done nothing is
//! allocated for what a peer announces, and no frame above [`FRAME_MAX`] is read.

use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac, SimpleHmac};
use md5::Md5;
use sha2::{Sha256, Sha384};
use sha3::{Sha3_256, Sha3_384};

/// Longest frame that is taken from a peer that has not proved anything.
pub const FRAME_MAX: usize = 256;

const CHALLENGE: &[u8] = b"#CHALLENGE#";
const WELCOME: &[u8] = b"#WELCOME#";
const FAILURE: &[u8] = b"#FAILURE#";

/// Length of a message of Python up to 3.11, and the shortest that is answered: a short one
/// would let whoever picks it replay an answer heard earlier.
const OLD_MESSAGE_LEN: usize = 20;
/// Length of an answer of Python up to 3.11.
const OLD_ANSWER_LEN: usize = 16;
/// Random bytes in a message of ours.
const NONCE_LEN: usize = 40;

/// Why a handshake failed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The answer was made with another key.
    #[error("digest received was wrong")]
    WrongKey,
    /// The peer says that our answer was made with another key.
    #[error("digest sent was rejected")]
    Rejected,
    /// A digest that is not spoken here.
    #[error(
        "the other side wants the digest {0:?}; known are md5, sha256, sha384, sha3_256, sha3_384"
    )]
    UnknownDigest(String),
    /// An answer that does not fit its digest.
    #[error("expected a {name} digest of {expected} bytes, got {got}")]
    WrongLength {
        /// The digest's name.
        name: &'static str,
        /// Bytes that it has.
        expected: usize,
        /// Bytes that came.
        got: usize,
    },
    /// Neither a message of the old form nor one that names its digest.
    #[error("the other side sent neither an old message nor one that names its digest: {0}")]
    Shapeless(Excerpt),
    /// Something else in place of a challenge.
    #[error("the other side sent {0} in place of a challenge")]
    NoChallenge(Excerpt),
    /// A challenge that would make replays possible.
    #[error("the other side sent a challenge that is too short: {0} bytes")]
    ShortChallenge(usize),
    /// A frame of a length that no part of a handshake has.
    #[error("the other side announced a message of {0} bytes, where a handshake has at most 256")]
    BadLength(i64),
    /// The machine has no randomness.
    #[error("this machine has no random bytes: {0}")]
    NoRandomness(String),
}

impl Refusal {
    /// Whether the peer speaks the protocol, and only lacks the key (or the digest); else it
    /// has sent what no honest peer sends.
    #[must_use]
    pub fn is_about_the_key(&self) -> bool {
        matches!(
            self,
            Self::WrongKey | Self::Rejected | Self::UnknownDigest(_) | Self::WrongLength { .. }
        )
    }
}

/// The beginning of what a stranger sent, fit to be printed in one line.
#[derive(Debug, PartialEq, Eq)]
pub struct Excerpt(Vec<u8>);

impl Excerpt {
    fn of(bytes: &[u8]) -> Self {
        Self(bytes[..bytes.len().min(32)].to_vec())
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// The digests that both sides may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Digest {
    Md5,
    Sha256,
    Sha384,
    Sha3_256,
    Sha3_384,
}

impl Digest {
    const ALL: [Self; 5] = [
        Self::Md5,
        Self::Sha256,
        Self::Sha384,
        Self::Sha3_256,
        Self::Sha3_384,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha3_256 => "sha3_256",
            Self::Sha3_384 => "sha3_384",
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha256 | Self::Sha3_256 => 32,
            Self::Sha384 | Self::Sha3_384 => 48,
        }
    }

    fn sign(self, key: &[u8], message: &[u8]) -> Vec<u8> {
        fn sign<M: Mac + KeyInit>(key: &[u8], message: &[u8]) -> Vec<u8> {
            match <M as KeyInit>::new_from_slice(key) {
                Ok(mac) => mac.chain_update(message).finalize().into_bytes().to_vec(),
                // HMAC takes keys of any length.
                Err(_) => Vec::new(),
            }
        }
        match self {
            Self::Md5 => sign::<Hmac<Md5>>(key, message),
            Self::Sha256 => sign::<Hmac<Sha256>>(key, message),
            Self::Sha384 => sign::<Hmac<Sha384>>(key, message),
            Self::Sha3_256 => sign::<SimpleHmac<Sha3_256>>(key, message),
            Self::Sha3_384 => sign::<SimpleHmac<Sha3_384>>(key, message),
        }
    }

    /// Whether `mac` is the right one, in a time that does not tell where it differs.
    fn verify(self, key: &[u8], message: &[u8], mac: &[u8]) -> bool {
        fn verify<M: Mac + KeyInit>(key: &[u8], message: &[u8], mac: &[u8]) -> bool {
            <M as KeyInit>::new_from_slice(key)
                .is_ok_and(|own| own.chain_update(message).verify_slice(mac).is_ok())
        }
        match self {
            Self::Md5 => verify::<Hmac<Md5>>(key, message, mac),
            Self::Sha256 => verify::<Hmac<Sha256>>(key, message, mac),
            Self::Sha384 => verify::<Hmac<Sha384>>(key, message, mac),
            Self::Sha3_256 => verify::<SimpleHmac<Sha3_256>>(key, message, mac),
            Self::Sha3_384 => verify::<SimpleHmac<Sha3_384>>(key, message, mac),
        }
    }
}

/// The digest that a message names (none in the old form), and what follows the name.
fn split(message: &[u8]) -> Result<(Option<Digest>, &[u8]), Refusal> {
    if matches!(message.len(), OLD_MESSAGE_LEN | OLD_ANSWER_LEN) {
        return Ok((None, message));
    }
    let shapeless = || Refusal::Shapeless(Excerpt::of(message));
    let rest = message.strip_prefix(b"{").ok_or_else(shapeless)?;
    let brace = rest
        .iter()
        .position(|byte| *byte == b'}')
        .ok_or_else(shapeless)?;
    let (name, payload) = (&rest[..brace], &rest[brace + 1..]);
    if let Some(digest) = Digest::ALL
        .into_iter()
        .find(|digest| digest.name().as_bytes() == name)
    {
        return Ok((Some(digest), payload));
    }
    // A digest of another age, or noise that happens to have braces.
    let plausible = !name.is_empty()
        && name.len() <= 20
        && name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if plausible {
        Err(Refusal::UnknownDigest(
            String::from_utf8_lossy(name).into_owned(),
        ))
    } else {
        Err(shapeless())
    }
}

/// The answer to the message of a challenge, in the form and with the digest that it asks for.
///
/// # Errors
/// [`Refusal`]: it asks for none that we know.
pub fn respond(key: &[u8], message: &[u8]) -> Result<Vec<u8>, Refusal> {
    match split(message)? {
        (None, message) => Ok(Digest::Md5.sign(key, message)),
        (Some(digest), _) => {
            let mut answer = format!("{{{}}}", digest.name()).into_bytes();
            answer.extend(digest.sign(key, message));
            Ok(answer)
        }
    }
}

/// Checks the answer to the message of our challenge.
///
/// # Errors
/// [`Refusal`]: it is none, or was made with another key.
pub fn verify(key: &[u8], message: &[u8], answer: &[u8]) -> Result<(), Refusal> {
    let (digest, mac) = split(answer)?;
    let digest = digest.unwrap_or(Digest::Md5);
    if mac.len() != digest.len() {
        return Err(Refusal::WrongLength {
            name: digest.name(),
            expected: digest.len(),
            got: mac.len(),
        });
    }
    if digest.verify(key, message, mac) {
        Ok(())
    } else {
        Err(Refusal::WrongKey)
    }
}

/// The answer to a whole challenge.
///
/// # Errors
/// [`Refusal`]: it is no challenge, or one that must not be answered.
pub fn answer(key: &[u8], challenge: &[u8]) -> Result<Vec<u8>, Refusal> {
    let message = challenge
        .strip_prefix(CHALLENGE)
        .ok_or_else(|| Refusal::NoChallenge(Excerpt::of(challenge)))?;
    if message.len() < OLD_MESSAGE_LEN {
        return Err(Refusal::ShortChallenge(message.len()));
    }
    respond(key, message)
}

/// What the listening side waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaiting {
    Answer,
    Challenge,
    Verdict,
    Nothing,
}

/// The listening side of a handshake, from which bytes come and to which bytes are fed.
///
/// With the key of nobody (`None`) it is done at once.
pub struct Handshake {
    key: Option<Arc<[u8]>>,
    awaiting: Awaiting,
    message: Vec<u8>,
    /// The frame on its way in: never more than its header and [`FRAME_MAX`] bytes.
    frame: Vec<u8>,
    outgoing: Vec<u8>,
}

impl Handshake {
    /// A handshake whose first challenge is ready to be sent.
    ///
    /// # Errors
    /// [`Refusal::NoRandomness`]
    pub fn new(key: Option<Arc<[u8]>>) -> Result<Self, Refusal> {
        let mut handshake = Self {
            awaiting: Awaiting::Nothing,
            message: Vec::new(),
            frame: Vec::new(),
            outgoing: Vec::new(),
            key,
        };
        if handshake.key.is_some() {
            let mut nonce = [0; NONCE_LEN];
            getrandom::fill(&mut nonce)
                .map_err(|error| Refusal::NoRandomness(error.to_string()))?;
            handshake.message = [b"{sha256}", &nonce[..]].concat();
            let challenge = [CHALLENGE, &handshake.message].concat();
            handshake.send(&challenge);
            handshake.awaiting = Awaiting::Answer;
        }
        Ok(handshake)
    }

    /// Whether both sides know the key (what is left in [`Self::take_outgoing`] has to be sent).
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.awaiting == Awaiting::Nothing
    }

    /// What has to be sent now.
    pub fn take_outgoing(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.outgoing)
    }

    /// How many bytes may be fed next: what follows them may be no part of the handshake.
    #[must_use]
    pub fn wants(&self) -> usize {
        if self.is_done() {
            return 0;
        }
        match self.frame.first_chunk() {
            None => 4 - self.frame.len(),
            Some(header) => {
                let length = u32::from_be_bytes(*header) as usize;
                (4 + length.min(FRAME_MAX)).saturating_sub(self.frame.len())
            }
        }
    }

    /// Takes bytes from the peer, at most as many as [`Self::wants`] says.
    ///
    /// # Errors
    /// [`Refusal`]: the handshake has failed. What there is to be sent tells the peer.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.frame.extend_from_slice(bytes);
        let Some(header) = self.frame.first_chunk() else {
            return Ok(());
        };
        let length = i32::from_be_bytes(*header);
        if !usize::try_from(length).is_ok_and(|length| length <= FRAME_MAX) {
            return Err(Refusal::BadLength(length.into()));
        }
        if self.wants() == 0 {
            let frame = std::mem::take(&mut self.frame);
            return self.advance(&frame[4..]);
        }
        Ok(())
    }

    fn advance(&mut self, frame: &[u8]) -> Result<(), Refusal> {
        let Some(key) = self.key.clone() else {
            return Ok(());
        };
        match self.awaiting {
            Awaiting::Answer => {
                if let Err(refusal) = verify(&key, &self.message, frame) {
                    self.send(FAILURE);
                    return Err(refusal);
                }
                self.send(WELCOME);
                self.awaiting = Awaiting::Challenge;
            }
            Awaiting::Challenge => {
                let answer = answer(&key, frame)?;
                self.send(&answer);
                self.awaiting = Awaiting::Verdict;
            }
            Awaiting::Verdict if frame == WELCOME => self.awaiting = Awaiting::Nothing,
            Awaiting::Verdict => return Err(Refusal::Rejected),
            Awaiting::Nothing => {}
        }
        Ok(())
    }

    fn send(&mut self, frame: &[u8]) {
        // Frames of a handshake are short.
        self.outgoing
            .extend_from_slice(&(frame.len() as u32).to_be_bytes());
        self.outgoing.extend_from_slice(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"the key";

    fn key() -> Option<Arc<[u8]>> {
        Some(KEY.into())
    }

    fn frame(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32).to_be_bytes()[..], body].concat()
    }

    /// Feeds bytes as a socket would that is only read as far as is wanted.
    fn feed(handshake: &mut Handshake, mut bytes: &[u8]) -> Result<(), Refusal> {
        while !bytes.is_empty() && handshake.wants() > 0 {
            let (now, later) = bytes.split_at(handshake.wants().min(bytes.len()));
            handshake.feed(now)?;
            bytes = later;
        }
        Ok(())
    }

    fn body(bytes: &[u8]) -> &[u8] {
        assert_eq!(
            bytes.len() - 4,
            u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize
        );
        &bytes[4..]
    }

    /// Plays an honest peer of the old or the new form.
    fn meet(handshake: &mut Handshake, key: &[u8], old: bool) -> Result<(), Refusal> {
        let challenge = handshake.take_outgoing();
        let message = body(&challenge).strip_prefix(CHALLENGE).unwrap();
        let response = if old {
            Digest::Md5.sign(key, message)
        } else {
            respond(key, message).unwrap()
        };
        feed(handshake, &frame(&response))?;
        assert_eq!(body(&handshake.take_outgoing()), WELCOME);
        let message: Vec<u8> = if old {
            vec![7; OLD_MESSAGE_LEN]
        } else {
            [b"{sha384}", &[7; 40][..]].concat()
        };
        feed(handshake, &frame(&[CHALLENGE, &message].concat()))?;
        let answer = handshake.take_outgoing();
        verify(key, &message, body(&answer))?;
        assert_eq!(body(&answer).len() == OLD_ANSWER_LEN, old);
        feed(handshake, &frame(WELCOME))
    }

    #[test]
    fn peers_of_both_forms_are_met() {
        for old in [false, true] {
            let mut handshake = Handshake::new(key()).unwrap();
            meet(&mut handshake, KEY, old).unwrap();
            assert!(handshake.is_done());
            assert_eq!(handshake.wants(), 0);
        }
    }

    #[test]
    fn nothing_behind_the_handshake_is_wanted() {
        let mut handshake = Handshake::new(key()).unwrap();
        let mut fed = 0;
        while !handshake.is_done() {
            assert!(handshake.wants() > 0);
            let step = match handshake.awaiting {
                Awaiting::Answer => frame(&respond(KEY, &handshake.message.clone()).unwrap()),
                Awaiting::Challenge => frame(&[CHALLENGE, &[1; 20]].concat()),
                _ => frame(WELCOME),
            };
            feed(&mut handshake, &step).unwrap();
            fed += 1;
        }
        assert_eq!(fed, 3);
    }

    #[test]
    fn another_key_is_told_and_is_about_the_key() {
        for old in [false, true] {
            let mut handshake = Handshake::new(key()).unwrap();
            let refusal = meet(&mut handshake, b"another key", old).unwrap_err();
            assert_eq!(refusal, Refusal::WrongKey);
            assert!(refusal.is_about_the_key());
            assert_eq!(body(&handshake.take_outgoing()), FAILURE);
        }
    }

    #[test]
    fn lengths_that_no_handshake_has_are_refused_by_the_header() {
        for header in [257_u32, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
            let mut handshake = Handshake::new(key()).unwrap();
            let refusal = feed(&mut handshake, &header.to_be_bytes()).unwrap_err();
            assert_eq!(refusal, Refusal::BadLength((header as i32).into()));
            assert!(!refusal.is_about_the_key());
            assert!(handshake.frame.capacity() <= 64);
        }
    }

    #[test]
    fn a_byte_at_a_time_is_as_good_as_all_at_once() {
        let mut handshake = Handshake::new(key()).unwrap();
        let answer = frame(&respond(KEY, &handshake.message.clone()).unwrap());
        for byte in &answer {
            handshake.feed(&[*byte]).unwrap();
        }
        assert_eq!(handshake.awaiting, Awaiting::Challenge);
    }

    #[test]
    fn without_a_key_there_is_nothing_to_do() {
        let mut handshake = Handshake::new(None).unwrap();
        assert!(handshake.is_done());
        assert!(handshake.take_outgoing().is_empty());
    }

    #[test]
    fn known_answers() {
        // RFC 2104 (MD5) and RFC 4231 (SHA-2), test case 2: the key "Jefe".
        let text = b"what do ya want for nothing?";
        let hex = |bytes: Vec<u8>| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            hex(Digest::Md5.sign(b"Jefe", text)),
            "750c783e6ab0b503eaa86e310a5db738"
        );
        assert_eq!(
            hex(Digest::Sha256.sign(b"Jefe", text)),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        for digest in Digest::ALL {
            assert_eq!(digest.sign(KEY, text).len(), digest.len());
        }
    }

    #[test]
    fn arbitrary_bytes_never_get_in() {
        // Pseudo-random streams, cut at random places; half of them begin with a sound header.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for round in 0..20_000 {
            let mut handshake = Handshake::new(key()).unwrap();
            let mut bytes: Vec<u8> = (0..random() % 600).map(|_| random() as u8).collect();
            if round % 2 == 0 && bytes.len() > 4 {
                bytes[..4].copy_from_slice(&((random() % 300) as u32).to_be_bytes());
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() && handshake.wants() > 0 {
                let most = handshake.wants().min(rest.len());
                let (now, later) = rest.split_at(1 + (random() as usize) % most);
                if handshake.feed(now).is_err() {
                    break;
                }
                assert!(handshake.frame.len() <= 4 + FRAME_MAX);
                rest = later;
            }
            assert!(!handshake.is_done());
        }
    }
}
