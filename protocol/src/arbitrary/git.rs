//! States of git repositories, and the lists that they name.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{blob, git_state_id, name, rel_path};
use crate::object::{
    GitEntry, GitFile, GitFiles, GitHash, GitHead, GitIndex, GitMode, GitOid, GitOids, GitOmission,
    GitOmissions, GitOmitReason, GitPack, GitPlace, GitRef, GitRefName, GitRefs, GitSetting,
    GitSettings, GitState, GitTarget, GitUndo, GitUnit, RefStorage, is_index_path, is_module_name,
    unit_path,
};

fn hash() -> impl Strategy<Value = GitHash> {
    select(vec![GitHash::Sha1, GitHash::Sha256])
}

fn oid(hash: GitHash) -> impl Strategy<Value = GitOid> {
    any::<[u8; 32]>()
        .prop_map(move |bytes| GitOid::new(hash, &bytes[..hash.len()]).unwrap())
        .prop_filter("no object", |oid| !oid.is_null())
}

fn below_refs() -> impl Strategy<Value = GitRefName> {
    "refs/(heads|tags|remotes/o)/[a-z-]{1,6}(/[a-zé]{1,5})?"
        .prop_filter_map("a name", |name| GitRefName::new(name.as_bytes()))
}

fn ref_name() -> impl Strategy<Value = GitRefName> {
    let root = select(vec!["ORIG_HEAD", "AUTO_MERGE", "CHERRY_PICK_HEAD"]);
    prop_oneof![
        1 => root.prop_map(|name| GitRefName::new(name.as_bytes()).unwrap()),
        6 => below_refs(),
    ]
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    let path = vec(name(), 1..4).prop_map(|names| names.join(&b'/'));
    path.prop_filter("a path of an index", |path| is_index_path(path))
}

pub(crate) fn oids() -> impl Strategy<Value = GitOids> {
    hash().prop_flat_map(|hash| {
        btree_set(oid(hash), 0..9)
            .prop_map(move |oids| GitOids { hash, oids: oids.into_iter().collect() })
    })
}

pub(crate) fn refs() -> impl Strategy<Value = GitRefs> {
    hash().prop_flat_map(|hash| {
        let target = prop_oneof![
            4 => oid(hash).prop_map(GitTarget::Object),
            1 => below_refs().prop_map(GitTarget::Symbolic),
        ];
        btree_map(ref_name(), target, 0..9).prop_map(move |refs: BTreeMap<_, _>| {
            let refs = refs.into_iter().map(|(name, target)| GitRef { name, target });
            GitRefs { hash, refs: refs.collect() }
        })
    })
}

pub(crate) fn index() -> impl Strategy<Value = GitIndex> {
    (hash(), any::<bool>(), 2..=4u8).prop_flat_map(|(hash, sparse, version)| {
        let modes = GitMode::ALL[..if sparse { 5 } else { 4 }].to_vec();
        let flags = (any::<bool>(), any::<bool>(), any::<bool>());
        let entry = (select(modes), flags, option::of(any::<u32>()), oid(hash));
        let entries = btree_map((path(), 0..=3u8), entry, 0..9);
        let file = select(GitMode::ALL[..4].to_vec());
        let stages = vec(option::of((file, oid(hash))), 3);
        (entries, btree_map(path(), stages, 0..3)).prop_map(move |(entries, undo)| {
            let entry = |((path, stage), (mode, flags, clean, oid))| {
                let mut path: Vec<u8> = path;
                if mode == GitMode::Directory {
                    path.push(b'/');
                }
                let (assume_valid, skip_worktree, intent_to_add) = flags;
                GitEntry {
                    path,
                    stage,
                    mode,
                    assume_valid,
                    skip_worktree,
                    intent_to_add,
                    clean,
                    oid,
                }
            };
            let mut entries: Vec<_> = entries.into_iter().map(entry).collect();
            entries.sort_by(|a, b| (&a.path, a.stage).cmp(&(&b.path, b.stage)));
            let undo = undo
                .into_iter()
                .map(|(path, stages)| GitUndo { path, stages: stages.try_into().unwrap() });
            let undo = undo.filter(|undo| undo.stages.iter().any(Option::is_some)).collect();
            GitIndex { hash, version, sparse, entries, undo }
        })
    })
}

pub(crate) fn settings() -> impl Strategy<Value = GitSettings> {
    let subsection = option::of(vec(any::<u8>(), 0..6));
    let setting =
        ("[a-z][a-z0-9-]{0,6}", subsection, "[a-z][a-z0-9-]{0,6}", vec(any::<u8>(), 0..9))
            .prop_map(|(section, subsection, key, value)| GitSetting {
                section,
                subsection,
                key,
                value,
            })
            .prop_filter("a setting", GitSetting::is_valid);
    vec(setting, 0..6).prop_map(GitSettings)
}

pub(crate) fn files() -> impl Strategy<Value = GitFiles> {
    btree_map(rel_path(), vec(any::<u8>(), 0..30), 0..6).prop_map(|files: BTreeMap<_, _>| {
        GitFiles(files.into_iter().map(|(path, bytes)| GitFile { path, bytes }).collect())
    })
}

pub(crate) fn omissions() -> impl Strategy<Value = GitOmissions> {
    let omission = ("\\PC{0,20}", select(GitOmitReason::ALL.to_vec()))
        .prop_map(|(what, reason)| GitOmission { what, reason });
    btree_set(omission, 0..9).prop_map(|set: BTreeSet<_>| GitOmissions(set.into_iter().collect()))
}

fn units() -> impl Strategy<Value = Vec<GitUnit>> {
    let module = vec(name(), 1..3).prop_map(|names| names.join(&b'/'));
    let place = prop_oneof![
        1 => Just(GitPlace::Embedded),
        2 => module
            .prop_filter("a name of a module", |name| is_module_name(name))
            .prop_map(GitPlace::Module),
    ];
    let path =
        rel_path().prop_filter("a path of a unit", |path| unit_path(path.as_bytes()).is_some());
    btree_map(path, (place, git_state_id()), 0..4).prop_map(|units: BTreeMap<_, _>| {
        let unit = |(path, (place, state))| GitUnit { path, place, state };
        units.into_iter().map(unit).collect()
    })
}

pub(crate) fn state() -> impl Strategy<Value = GitState> {
    let storage = select(vec![RefStorage::Files, RefStorage::Reftable]);
    let packs = vec((blob(), blob(), any::<u64>()), 0..4);
    let some = || option::of(blob());
    let lists = (blob(), some(), blob(), some(), some(), some());
    (hash(), storage, any::<bool>(), lists, packs, units()).prop_flat_map(
        |(hash, storage, busy, (refs, index, settings, files, omitted, later), packs, units)| {
            let pack = |(blob, tips, commits)| GitPack { blob, tips, commits };
            let packs: Vec<_> = packs.into_iter().map(pack).collect();
            let head = prop_oneof![
                below_refs().prop_map(GitHead::Symbolic),
                oid(hash).prop_map(GitHead::Detached),
            ];
            head.prop_map(move |head| GitState {
                hash,
                storage,
                busy,
                head,
                refs,
                index,
                settings,
                files,
                packs: packs.clone(),
                units: units.clone(),
                omitted,
                later,
            })
        },
    )
}
