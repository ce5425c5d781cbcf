//! The other nodes of the cluster, as their status notices describe them. The router writes this table; operators read it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::bus::NodeId;
use crate::node_name::NodeName;

/// The most nodes in the table. A node that restarts has another id, and leaves the table when it stops or is lost.
const MAX_NODES: usize = 1_000;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeStatus {
    pub(crate) name: NodeName,
    pub(crate) version: String,
    /// How far the node's clock is ahead of this node's clock, in milliseconds; 0 if it is not.
    pub(crate) ahead_ms: i64,
}

/// The answer of a node to a question.
type Answer = (NodeId, Box<RawValue>);

/// The questions of operators that wait for answers, by their numbers.
type PendingQuestions = BTreeMap<u64, mpsc::Sender<Answer>>;

/// The other nodes that have sent their status and are alive.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    table: Mutex<BTreeMap<NodeId, NodeStatus>>,
    questions: Mutex<PendingQuestions>,
}

/// The answers of the other nodes to a question. Dropping it ends the question.
#[derive(Debug)]
pub(crate) struct Answers {
    nodes: Arc<Nodes>,
    number: u64,
    receiver: mpsc::Receiver<Answer>,
    /// The nodes that have not answered yet.
    missing: BTreeSet<NodeId>,
}

impl Nodes {
    fn lock_table(&self) -> MutexGuard<'_, BTreeMap<NodeId, NodeStatus>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_questions(&self) -> MutexGuard<'_, PendingQuestions> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a question to the nodes of the table. Its number is random, because all nodes see all answers.
    pub(crate) fn begin_question(self: &Arc<Self>) -> Answers {
        let number = getrandom::u64().unwrap_or_default();
        let missing: BTreeSet<_> = self.lock_table().keys().copied().collect();
        let (sender, receiver) = mpsc::channel(missing.len().max(1));
        self.lock_questions().insert(number, sender);
        Answers { nodes: self.clone(), number, receiver, missing }
    }

    /// Passes the answer of a node on. Drops it if this node did not ask.
    pub(crate) fn receive_answer(&self, number: u64, from: NodeId, answer: Box<RawValue>) {
        if let Some(sender) = self.lock_questions().get(&number) {
            // The queue has room for one answer of each node.
            let _ = sender.try_send((from, answer));
        }
    }

    /// Records the status of a node. Returns how far the clock of any node is ahead of this node's clock, in milliseconds.
    pub(crate) fn record_status(&self, node: NodeId, status: NodeStatus) -> i64 {
        let mut table = self.lock_table();
        if table.len() < MAX_NODES || table.contains_key(&node) {
            table.insert(node, status);
        }
        max_lead_ms(&table)
    }

    /// Removes a node that has stopped or was lost. Returns the same as [`Self::record_status`].
    pub(crate) fn remove(&self, node: NodeId) -> i64 {
        let mut table = self.lock_table();
        table.remove(&node);
        max_lead_ms(&table)
    }
}

fn max_lead_ms(table: &BTreeMap<NodeId, NodeStatus>) -> i64 {
    table.values().map(|status| status.ahead_ms).max().unwrap_or_default()
}

impl Answers {
    /// The number of the question.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Waits for the next answer; `None` once every node has answered.
    pub(crate) async fn next(&mut self) -> Option<Box<RawValue>> {
        while !self.missing.is_empty() {
            let (from, answer) = self.receiver.recv().await?;
            if self.missing.remove(&from) {
                return Some(answer);
            }
        }
        None
    }

    /// The names of the nodes that have not answered.
    pub(crate) fn unanswered_nodes(&self) -> Vec<String> {
        let table = self.nodes.lock_table();
        let name = |node: &NodeId| {
            table.get(node).map_or_else(|| node.to_string(), |status| status.name.to_string())
        };
        self.missing.iter().map(name).collect()
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.nodes.lock_questions().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(name: &str, ahead_ms: i64) -> NodeStatus {
        NodeStatus { name: name.parse().expect("a name"), version: "1.0.0".to_owned(), ahead_ms }
    }

    fn answer() -> Box<RawValue> {
        RawValue::from_string("[]".to_owned()).expect("JSON")
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_to_all_nodes_ends_with_the_last_answer_and_names_the_nodes_without_one() {
        let nodes = Arc::new(Nodes::default());
        nodes.record_status(NodeId(1), status("a", 0));
        nodes.record_status(NodeId(2), status("b", 0));
        let mut answers = nodes.begin_question();
        nodes.receive_answer(answers.number().wrapping_add(1), NodeId(1), answer());
        nodes.receive_answer(answers.number(), NodeId(2), answer());
        assert!(answers.next().await.is_some());
        assert_eq!(answers.unanswered_nodes(), ["a"]);
        nodes.receive_answer(answers.number(), NodeId(2), answer());
        nodes.receive_answer(answers.number(), NodeId(1), answer());
        assert!(answers.next().await.is_some(), "the second answer of a node does not count");
        assert!(answers.next().await.is_none() && answers.unanswered_nodes().is_empty());
        drop(answers);
        assert!(nodes.lock_questions().is_empty());
    }

    #[test]
    fn the_reported_clock_lead_is_that_of_the_most_advanced_node() {
        let nodes = Nodes::default();
        assert_eq!(nodes.record_status(NodeId(1), status("a", 5)), 5);
        assert_eq!(nodes.record_status(NodeId(2), status("b", 7)), 7);
        assert_eq!(nodes.remove(NodeId(2)), 5);
        assert_eq!(nodes.remove(NodeId(1)), 0);
    }
}
