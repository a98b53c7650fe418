//! What can happen, and random sequences of it.

use proptest::prelude::*;

/// How many pods there are.
pub(crate) const PODS: usize = 3;

/// One event.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// A pod is attached, with a host port or without; a retry if it is attached already.
    Add { pod: usize, port: Option<u16> },
    /// A pod is detached and ends.
    Del { pod: usize },
    /// A pod is detached after its end.
    EndThenDel { pod: usize },
    /// Somebody wants to know whether it is well.
    Check { pod: usize },
    /// What nobody vouches for is collected.
    Collect,
    /// The daemon ends and is started again.
    Restart,
    /// The daemon is killed this many hundredths of an operation's usual time after its begin, and started again.
    Kill { pod: usize, attaching: bool, after: u32 },
    /// A plugin's binary vanishes.
    Uninstall { plugin: usize },
    /// All plugins are there.
    Install,
    /// Another configuration takes effect.
    Configure { other: bool },
    /// Somebody flushes all rules.
    Flush,
    /// Somebody deletes what the pods are connected by.
    DeleteBridge,
}

/// Some of them in a row.
pub(crate) fn sequence() -> impl Strategy<Value = Vec<Op>> {
    proptest::collection::vec(op(), 3..10)
}

fn op() -> impl Strategy<Value = Op> {
    let pod = || 0..PODS;
    prop_oneof![
        8 => (pod(), port()).prop_map(|(pod, port)| Op::Add { pod, port }),
        4 => pod().prop_map(|pod| Op::Del { pod }),
        2 => pod().prop_map(|pod| Op::EndThenDel { pod }),
        1 => pod().prop_map(|pod| Op::Check { pod }),
        2 => Just(Op::Collect),
        1 => Just(Op::Restart),
        2 => (pod(), any::<bool>(), 0..120u32).prop_map(|(pod, attaching, after)| Op::Kill { pod, attaching, after }),
        1 => (0..3usize).prop_map(|plugin| Op::Uninstall { plugin }),
        1 => Just(Op::Install),
        1 => any::<bool>().prop_map(|other| Op::Configure { other }),
        1 => Just(Op::Flush),
        1 => Just(Op::DeleteBridge),
    ]
}

fn port() -> impl Strategy<Value = Option<u16>> {
    prop_oneof![Just(None), (8080..8083u16).prop_map(Some)]
}
