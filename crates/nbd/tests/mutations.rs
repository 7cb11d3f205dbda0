//! The fuzz targets' functions over their corpus and random changes of it, with a fixed seed and a
//! bounded number of runs.

mod common;
#[path = "../../../tests/lib/soak.rs"]
mod soak;

use std::path::PathBuf;

use common::Random;
use strongroom_nbd::fuzzing;
use strongroom_nbd::wire::{self, Request, cflag, cmd, opt};

fn runs() -> usize {
    soak::number(60_000, 600_000)
}

fn request(flags: u16, command: u16, cookie: u64, offset_bytes: u64, length_bytes: u32) -> Vec<u8> {
    Request { flags, command, cookie, offset_bytes, length_bytes }.encode().to_vec()
}

/// What well-behaved clients say.
fn client_scripts() -> Vec<Vec<u8>> {
    let greeting = 3u32.to_be_bytes().to_vec();
    let contexts = ["base:allocation".to_owned(), "qemu:dirty-bitmap:b".to_owned()];
    let meta = wire::encode_meta_context("disk", &contexts);
    let go = wire::encode_option(opt::GO, &wire::encode_go("disk", &[1, 2, 3]));
    let requests = [
        request(0, cmd::READ, 1, 100, 20_000),
        request(cflag::DF, cmd::READ, 2, 0, 4096),
        request(cflag::FUA, cmd::WRITE, 3, 10, 5),
        vec![1, 2, 3, 4, 5],
        request(0, cmd::WRITE_ZEROES, 4, 0, 65_536),
        request(0, cmd::TRIM, 5, 0, 4096),
        request(0, cmd::BLOCK_STATUS, 6, 0, 65_536),
        request(cflag::REQ_ONE, cmd::BLOCK_STATUS, 7, 5000, 9000),
        request(0, cmd::FLUSH, 8, 0, 0),
        request(0, cmd::READ, 9, 65_536, 1),
        request(0, cmd::DISC, 10, 0, 0),
    ]
    .concat();
    let structured = wire::encode_option(opt::STRUCTURED_REPLY, &[]);
    let set = wire::encode_option(opt::SET_META_CONTEXT, &meta);
    vec![
        [&greeting[..], &structured, &set, &go, &requests].concat(),
        [&greeting[..], &wire::encode_option(opt::EXPORT_NAME, b"disk"), &requests].concat(),
        [
            &greeting[..],
            &structured,
            &wire::encode_option(opt::LIST_META_CONTEXT, &meta),
            &wire::encode_option(opt::LIST, &[]),
            &wire::encode_option(opt::ABORT, &[]),
        ]
        .concat(),
        [&greeting[..], &structured, &wire::encode_option(opt::LIST_META_CONTEXT, &meta)].concat(),
        [&greeting[..], &wire::encode_option(opt::LIST, &[])].concat(),
        [&[0, 0, 0, 0][..], &wire::encode_option(opt::EXPORT_NAME, b""), &requests].concat(),
    ]
}

/// What a server says to each of those, for the client's side.
fn server_scripts() -> Vec<Vec<u8>> {
    let ways = [0, 1, 3, 3, 2, 1];
    let said = client_scripts().into_iter().zip(ways);
    said.map(|(script, way)| [&[way][..], &fuzzing::server_conversation(&script)].concat()).collect()
}

fn chunk(flags: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    let length_bytes = payload.len() as u32;
    let head = wire::ReplyHeader::Chunk { flags, kind, cookie: 1, length_bytes }.encode();
    [&head[..], payload].concat()
}

/// Replies to a read of 16 KiB at 4096, a block status of 1 GiB there, or a flush.
fn reply_scripts() -> Vec<Vec<u8>> {
    let at = |offset: u64, rest: &[u8]| [&offset.to_be_bytes()[..], rest].concat();
    let status = |id: u8| [&[0, 0, 0, id, 0, 0, 16, 0, 0, 0, 0, 3][..], &[0, 1, 0, 0, 0, 0, 0, 0]].concat();
    let simple = |error| wire::ReplyHeader::Simple { error, cookie: 1 }.encode();
    vec![
        [&[0][..], &chunk(0, 1, &at(4096, &[7; 8192])), &chunk(1, 2, &at(12_288, &8192u32.to_be_bytes()))]
            .concat(),
        [
            &[0][..],
            &chunk(0, 1, &at(8192, &[7; 100])),
            &chunk(1, 0x8002, &at(0, &[0, 1, b'x', 0, 0, 0, 0, 0, 0, 0x20, 0])),
        ]
        .concat(),
        [&[0x80][..], &simple(0), &[9; 16 * 1024]].concat(),
        [&[1][..], &chunk(0, 5, &status(1)), &chunk(1, 5, &status(7))].concat(),
        [&[2][..], &simple(5)].concat(),
        [&[2][..], &chunk(1, 0x8001, &[0, 0, 0, 5, 0, 2, b'n', b'o'])].concat(),
    ]
}

fn uris() -> Vec<Vec<u8>> {
    ["nbd://host:1/a", "nbd://[::1]", "nbd+unix:///a%2fb?socket=/x%20y", "nbd+unix://?socket=a", "nbds://h/"]
        .iter()
        .map(|uri| uri.as_bytes().to_vec())
        .collect()
}

fn corpus_dir(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target)
}

/// The seeds as built here, and whatever has been kept in the corpus.
fn corpus(target: &str, mut seeds: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let kept = std::fs::read_dir(corpus_dir(target)).expect("the corpus is part of the sources");
    seeds.extend(kept.map(|file| std::fs::read(file.unwrap().path()).unwrap()));
    seeds
}

fn run(target: &str, seeds: Vec<Vec<u8>>, runs: usize, each: impl Fn(&[u8])) {
    let corpus = corpus(target, seeds);
    corpus.iter().for_each(|input| each(input));
    // Every beginning of every input.
    for input in &corpus {
        (0..input.len().min(600)).for_each(|end| each(&input[..end]));
    }
    let interesting: [&[u8]; 7] =
        [&[0], &[0xff], &[0xff; 4], &[0xff; 8], &[0, 0, 0, 0], &[0x80, 0, 0, 0], &[0, 0, 0x10, 0]];
    let mut random = Random(0x5eed);
    for _ in 0..runs {
        let mut input = corpus[random.below(corpus.len() as u64) as usize].clone();
        for _ in 0..=random.below(4) {
            if input.is_empty() {
                break;
            }
            // Headers matter more than payloads.
            let reach = if random.below(3) == 0 { input.len() as u64 } else { 400 };
            let at = random.below(reach.min(input.len() as u64)) as usize;
            match random.below(5) {
                0 => input[at] ^= 1 << random.below(8),
                1 => {
                    let piece = interesting[random.below(7) as usize];
                    let end = (at + piece.len()).min(input.len());
                    input[at..end].copy_from_slice(&piece[..end - at]);
                }
                2 => drop(input.drain(at..(at + 1 + random.below(24) as usize).min(input.len()))),
                3 => {
                    let piece = input[at..(at + random.below(40) as usize).min(input.len())].to_vec();
                    input.splice(at..at, piece);
                }
                _ => input[at] = random.next() as u8,
            }
        }
        each(&input);
    }
}

#[test]
fn client_negotiation() {
    run("nbd_client_negotiation", server_scripts(), runs(), fuzzing::client_negotiation);
}

#[test]
fn client_replies() {
    run("nbd_client_replies", reply_scripts(), runs(), fuzzing::client_replies);
}

#[test]
fn server() {
    run("nbd_server", client_scripts(), runs() / 2, |says| drop(fuzzing::server_conversation(says)));
}

#[test]
fn uri() {
    run("nbd_uri", uris(), runs(), fuzzing::uri);
}

/// The scripts are what they are meant to be: the well-behaved go all the way.
#[test]
fn scripts_reach_deep() {
    let heard = fuzzing::server_conversation(&client_scripts()[0]);
    let chunks = heard.windows(4).filter(|window| *window == wire::CHUNK_MAGIC.to_be_bytes()).count();
    assert!(chunks >= 12, "{chunks} chunks");
    let heard = fuzzing::server_conversation(&client_scripts()[1]);
    let replies = heard.windows(4).filter(|window| *window == wire::SIMPLE_REPLY_MAGIC.to_be_bytes()).count();
    assert!(replies >= 9, "{replies} replies");
}

#[test]
#[ignore = "writes the seeds to fuzz/corpus"]
fn write_corpus() {
    for (target, seeds) in [
        ("nbd_client_negotiation", server_scripts()),
        ("nbd_client_replies", reply_scripts()),
        ("nbd_server", client_scripts()),
        ("nbd_uri", uris()),
    ] {
        std::fs::create_dir_all(corpus_dir(target)).unwrap();
        for (number, seed) in seeds.iter().enumerate() {
            // Payloads of whole replies would only be ballast.
            let end = seed.len().min(24 * 1024);
            std::fs::write(corpus_dir(target).join(format!("seed-{number}")), &seed[..end]).unwrap();
        }
    }
}
