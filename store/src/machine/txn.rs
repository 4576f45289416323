//! Transactions: which branch to take, and taking it.
//!
//! All compares, those of nested transactions in the branches taken included, are judged by the
//! state before the transaction. Only then do steps run, in order, each seeing what the ones before
//! it wrote. The first refusal ends the whole transaction without effect.

use super::{draft::Draft, rows::RowsMut, size};
use crate::{
    command::{
        Compare, CompareResult, CompareTarget, KeyRange, KeyValue, Op, OpAnswer, Revision, Txn,
        TxnAnswer,
    },
    fault::{Error, Fault},
};

/// The branch of a transaction, and of each one nested directly in that branch.
struct Path {
    success: bool,
    nested: Vec<Self>,
}

pub(super) fn run<R: RowsMut>(draft: &mut Draft<'_, R>, txn: &Txn) -> Result<TxnAnswer, Error> {
    let path = choose(draft.rows, draft.base, txn)?;
    follow(draft, txn, &path)
}

/// What the puts of the dearer branch take: what the space quota is asked about.
pub(super) fn space(txn: &Txn) -> u64 {
    let branch = |ops: &[Op]| -> u64 {
        let costs = ops.iter().map(|op| match op {
            Op::Put(put) => size::cost(&put.key, &put.value),
            Op::Txn(nested) => space(nested),
            Op::Range(_) | Op::Delete(_) => 0,
        });
        costs.sum()
    };
    branch(&txn.success).max(branch(&txn.failure))
}

/// Answers a transaction that only asks, at the state of `current`.
pub(super) fn ask(
    rows: &impl super::rows::Rows,
    compacted: Revision,
    current: Revision,
    txn: &Txn,
) -> Result<TxnAnswer, Error> {
    assert!(txn.is_read_only(), "a transaction that writes goes through the log");
    let path = choose(rows, current, txn)?;
    let mut answers = Vec::new();
    for op in branch(txn, &path) {
        if let Op::Range(query) = op {
            // Outside a transaction a negative revision is the newest one.
            if query.revision.0 < 0 && query.revision < compacted {
                return Err(crate::command::Refusal::Compacted { compacted }.into());
            }
            answers.push(OpAnswer::Range(super::range::answer(rows, compacted, current, query)?));
        }
    }
    Ok(TxnAnswer { succeeded: path.success, answers })
}

fn branch<'a>(txn: &'a Txn, path: &Path) -> &'a [Op] {
    if path.success { &txn.success } else { &txn.failure }
}

fn choose(rows: &impl super::rows::Rows, at: Revision, txn: &Txn) -> Result<Path, Fault> {
    let mut success = true;
    for compare in &txn.compares {
        success = success && holds(rows, at, compare)?;
    }
    let mut path = Path { success, nested: Vec::new() };
    for op in branch(txn, &path) {
        if let Op::Txn(nested) = op {
            path.nested.push(choose(rows, at, nested)?);
        }
    }
    Ok(path)
}

fn follow<R: RowsMut>(
    draft: &mut Draft<'_, R>,
    txn: &Txn,
    path: &Path,
) -> Result<TxnAnswer, Error> {
    let mut nested_paths = path.nested.iter();
    let mut answers = Vec::new();
    for op in branch(txn, path) {
        answers.push(match op {
            Op::Range(query) => OpAnswer::Range(draft.range(query)?),
            Op::Put(put) => OpAnswer::Put(draft.put(put)?),
            Op::Delete(delete) => OpAnswer::Delete(draft.delete(delete)?),
            Op::Txn(nested) => {
                let path = nested_paths.next().expect("one path for each nested transaction");
                OpAnswer::Txn(follow(draft, nested, path)?)
            }
        });
    }
    Ok(TxnAnswer { succeeded: path.success, answers })
}

/// Every key of the range must meet the condition. A range without keys is judged as one absent
/// key, whose metadata are zero; a value that is not there meets no condition on values.
fn holds(rows: &impl super::rows::Rows, at: Revision, compare: &Compare) -> Result<bool, Fault> {
    if let KeyRange::Key(key) = &compare.range {
        let found = rows.get(key, at)?.filter(|(meta, _)| !meta.is_tombstone());
        return Ok(match found {
            Some((meta, value)) => meets(compare, &meta.with(key.clone(), value)),
            None => absent_meets(compare),
        });
    }
    let with_value = matches!(compare.target, CompareTarget::Value(_));
    let (mut any, mut all, mut arena) = (false, true, super::range::Arena::default());
    rows.scan(&compare.range, at, &mut |row| {
        any = true;
        all = meets(compare, &arena.keep(rows, row, with_value)?);
        Ok(all)
    })?;
    Ok(if any { all } else { absent_meets(compare) })
}

fn absent_meets(compare: &Compare) -> bool {
    !matches!(compare.target, CompareTarget::Value(_)) && meets(compare, &KeyValue::default())
}

fn meets(compare: &Compare, kv: &KeyValue) -> bool {
    let ordering = match &compare.target {
        CompareTarget::Version(version) => kv.version.cmp(version),
        CompareTarget::Create(revision) => kv.create.cmp(revision),
        CompareTarget::Modified(revision) => kv.modified.cmp(revision),
        CompareTarget::Lease(lease) => kv.lease.cmp(lease),
        CompareTarget::Value(value) => kv.value.cmp(value),
    };
    match compare.result {
        CompareResult::Equal => ordering.is_eq(),
        CompareResult::Greater => ordering.is_gt(),
        CompareResult::Less => ordering.is_lt(),
        CompareResult::NotEqual => ordering.is_ne(),
    }
}
