//! What the fuzzer has kept, and some inputs known to be nasty, go through the decoders once more.
#![cfg(not(any(loom, shuttle)))]

use std::fs;
use std::path::Path;

#[path = "../../../fuzz/src/lib.rs"]
mod decoders;

fn corpus(name: &str, decode: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(name);
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("the kept corpus") {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        decode(&fs::read(path).unwrap());
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
    // What tempts a decoder: nothing, one value everywhere, lengths at the edges of their types.
    for len in [0, 1, 3, 4, 5, 11, 12, 13, 16, 18, 20, 255, 256, 257, 5000] {
        for byte in [0, 1, 0x7b, 0x7f, 0x80, 0xff] {
            decode(&vec![byte; len]);
        }
    }
    for length in [
        0,
        1,
        255,
        256,
        257,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_fffe,
        u32::MAX,
    ] {
        for body in [
            &b""[..],
            b"#CHALLENGE#",
            b"#WELCOME#",
            b"{sha256}",
            &[0xff; 300],
        ] {
            let frame = [&length.to_be_bytes()[..], body].concat();
            decode(&frame);
            // With a first byte that says to whom, or how.
            decode(&[&[1, 0xff][..], &frame].concat());
            decode(&[&[1][..], &frame].concat());
        }
    }
}

#[test]
fn frames() {
    corpus("frames", decoders::frames);
}

#[test]
fn handshake() {
    corpus("handshake", decoders::handshake);
}

#[test]
fn porch() {
    corpus("porch", decoders::porch);
}

#[test]
fn handles() {
    corpus("handles", decoders::handles);
}
