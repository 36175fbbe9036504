use std::io::Cursor;
use std::path::Path;

use proptest::prelude::*;

use super::made_up::{FORMATS, check, packed, zip};
use super::*;

/// A project in each format, and the references in it.
fn projects() -> [(Format, &'static str, Vec<&'static str>); 6] {
    [
        (
            Format::Reaper,
            "<REAPER_PROJECT 0.1 \"7.0/linux\"\n  <ITEM\n    NAME FILE\n    <SOURCE WAVE\n      \
             FILE \"Media/take 1.wav\"\n    >\n    <SOURCE WAVE\r\n      FILE Media\\kick.wav 1\r\n    >\n    \
             <SOURCE MP3\n      FILE 'say \"hi\".mp3'\n    >\n    <SOURCE WAVE\n      FILE `it's \"x\".wav`\n\
             FILE \"Media/take 1.wav\"\n RENDER_FILE \"out.wav\"\n FILENAME x\n FILE \n FILE \"\n>\n",
            vec![
                "Media/take 1.wav",
                "Media\\kick.wav",
                "say \"hi\".mp3",
                "it's \"x\".wav",
            ],
        ),
        (
            Format::Ardour,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Session version=\"7003\" name=\"song\"><Sources>\
             <Source name=\"Audio 1-1.wav\" take-id=\"\" type=\"audio\" flags=\"\" id=\"1\" channel=\"0\"/>\
             <Source name=\"/mnt/vb/segments/a &amp; b&#33;.wav\" type=\"audio\" id=\"2\"/>\
             <Source type='midi' name='m.mid'></Source></Sources>\
             <Route name=\"Master\"/></Session>",
            vec!["Audio 1-1.wav", "/mnt/vb/segments/a & b!.wav", "m.mid"],
        ),
        (
            Format::Live,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Ableton><LiveSet><SampleRef><FileRef>\
             <RelativePathType Value=\"1\"/><RelativePath Value=\"../../layers/pad.wav\"/>\
             <Path Value=\"/mnt/vb/layers/pad.wav\"/><Type Value=\"1\"/></FileRef></SampleRef>\
             <Name Value=\"Track\"/><FileRef><HasRelativePath Value=\"true\"/><RelativePath>\
             <RelativePathElement Id=\"1\" Dir=\"\"/><RelativePathElement Id=\"2\" Dir=\"Samples\"/>\
             </RelativePath><Name Value=\"old.wav\"/><Name Value=\"again\"/></FileRef></LiveSet></Ableton>",
            vec![
                "../../layers/pad.wav",
                "/mnt/vb/layers/pad.wav",
                "../Samples/old.wav",
            ],
        ),
        (
            Format::Lmms,
            "<!DOCTYPE lmms-project>\n<lmms-project><song><audiofileprocessor src=\"drums/kick.ogg\"/>\
             <sampletco src=\"\" data=\"AAAA\"/><sampleclip src=\"local:take.wav\"></sampleclip></song>\
             </lmms-project>",
            vec!["drums/kick.ogg", "local:take.wav"],
        ),
        (
            Format::LmmsPacked,
            "<lmms-project><sf2player src=\"a.sf2\"/></lmms-project>",
            vec!["a.sf2"],
        ),
        (
            Format::DawProject,
            "<Project version=\"1.0\"><Audio><File path=\"audio/in.wav\"/><File external=\"false\" \
             path=\"audio/b.wav\"/><File path=\"../../segments/x.wav\" external=\"true\"/></Audio></Project>",
            vec!["../../segments/x.wav"],
        ),
    ]
}

fn found(format: Format, file: &[u8]) -> Vec<String> {
    references(format, &mut Cursor::new(file))
}

#[test]
fn references_are_found_in_each_format() {
    for (format, text, expected) in projects() {
        let file = packed(format, text.as_bytes());
        assert_eq!(found(format, &file), expected, "{format:?}");
        assert_eq!(found(Format::Closed, &file), [""; 0]);
    }
}

#[test]
fn of_a_file_that_is_cut_off_the_first_references_are_found() {
    let (format, text, expected) = projects()[1].clone();
    let cut = text.find("<Source type").unwrap() + 5;
    assert_eq!(found(format, &text.as_bytes()[..cut]), expected[..2]);
    let noise: String = (0..40_000_u32)
        .map(|n| format!("<Sample src=\"{}.wav\"/>", n.wrapping_mul(2_654_435_761)))
        .collect();
    let file = packed(Format::LmmsPacked, noise.as_bytes());
    let some = found(Format::LmmsPacked, &file[..file.len() / 20]);
    assert!(
        (100..MOST_REFERENCES).contains(&some.len()),
        "{}",
        some.len()
    );
}

#[test]
fn what_unpacks_to_very_much_is_left() {
    // 200 MB of spaces, then a reference.
    let mut text = vec![b' '; 200 << 20];
    text.extend(
        b"<Project><File path=\"/a\" external=\"true\" src=\"/a\"/><Path Value=\"/a\"/></Project>",
    );
    for format in [Format::Live, Format::LmmsPacked, Format::DawProject] {
        let bomb = packed(format, &text);
        assert!(bomb.len() < 2 << 20, "{}", bomb.len());
        let unpacked = super::text(format, &mut Cursor::new(&bomb)).unwrap();
        assert_eq!(unpacked.len() as u64, MOST_TEXT_BYTES);
        assert_eq!(found(format, &bomb), [""; 0]);
        assert_eq!(found(format, &packed(format, &text[190 << 20..])).len(), 1);
    }
}

#[test]
fn no_more_references_are_returned_than_can_be_used() {
    let lines: String = (0..10_000).map(|n| format!("FILE \"{n}.wav\"\n")).collect();
    assert_eq!(
        found(Format::Reaper, lines.as_bytes()).len(),
        MOST_REFERENCES
    );
    let long = format!("FILE \"{}\"\n", "x".repeat(MOST_REFERENCE_BYTES + 1));
    assert_eq!(found(Format::Reaper, long.as_bytes()), [""; 0]);
    let lines: String = (0..1000)
        .map(|n| format!("FILE \"{n}{}\"\n", "x".repeat(4000)))
        .collect();
    assert!(found(Format::Reaper, lines.as_bytes()).len() < 300);
}

#[test]
fn archives_that_lie_hold_nothing() {
    let project = b"<File external=\"true\" path=\"a\"/>";
    let good = zip(&[("project.xml", 0, project)]);
    assert_eq!(found(Format::DawProject, &good), ["a"]);
    assert_eq!(
        found(Format::DawProject, &zip(&[("other.xml", 0, project)])),
        [""; 0]
    );
    assert_eq!(
        found(Format::DawProject, &zip(&[("project.xml", 99, project)])),
        [""; 0]
    );
    // Behind a comment, as long as it may be.
    let commented = [&good[..], &[b'c'; 65_535]].concat();
    assert_eq!(found(Format::DawProject, &commented), ["a"]);
    for at in 0..good.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut file = good.clone();
            file[at] = value;
            found(Format::DawProject, &file);
            found(Format::DawProject, &file[..at]);
        }
    }
}

#[test]
fn projects_are_known_by_their_names_and_have_a_folder_of_their_own() {
    let of = |path| Project::of(path).map(|project| (project.format, project.folder));
    let own = Some("projects/song");
    assert_eq!(of("projects/song/song.rpp"), Some((Format::Reaper, own)));
    assert_eq!(of("projects/song/SONG.RPP"), Some((Format::Reaper, own)));
    assert_eq!(of("projects/song.als"), Some((Format::Live, None)));
    assert_eq!(of("projects/a/b/x.ptx").unwrap().1, Some("projects/a/b"));
    let logic = "Alternatives/000/ProjectData";
    let bundle = format!("projects/song/x.logicx/{logic}");
    assert_eq!(of(&bundle), Some((Format::Closed, own)));
    let alone = format!("projects/x.logicx/{logic}");
    assert_eq!(
        of(&alone),
        Some((Format::Closed, Some("projects/x.logicx")))
    );
    for other in [
        "song.rpp",
        "projects/song/.rpp",
        "projects/song/rpp",
        "projects/song/song.rpp-bak",
        "projects/song/take.wav",
        "projects/ProjectData",
        "projects/song/ProjectData",
        "x.logicx/ProjectData",
    ] {
        assert_eq!(of(other), None, "{other}");
    }
}

/// What the fuzzer has found to take different ways through the search.
#[test]
fn what_the_fuzzer_has_kept_does_no_harm() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/projects");
    let mut count = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        check(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 400, "{count}");
}

proptest! {
    #[test]
    fn damaged_projects_do_no_harm(
        kind in 0..6_usize,
        is_packed: bool,
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..20),
        length in any::<usize>(),
        is_cut: bool,
    ) {
        let (format, text, _) = projects()[kind].clone();
        let choice = FORMATS.iter().position(|other| *other == format).unwrap() as u8;
        // Damaged before or after it is packed.
        let mut file = match is_packed {
            true => packed(format, text.as_bytes()),
            false => text.as_bytes().to_vec(),
        };
        for (at, value) in changes {
            let at = at % file.len();
            file[at] = value;
        }
        if is_cut {
            file.truncate(length % file.len());
        }
        file.insert(0, if is_packed { choice } else { choice | 0x80 });
        check(&file);
    }

    #[test]
    fn any_bytes_do_no_harm(bytes: Vec<u8>) {
        check(&bytes);
    }
}
