//! What other nodes say about transactions.

use crate::cluster::control::Control;
use crate::cluster::transact::TransactionMessage;
use crate::core::Core;
use crate::core::store::LogStore;
use crate::core::transactions::Waiter;
use crate::transactions::TransactionError;

impl<S: LogStore> Core<S> {
    pub(crate) fn transaction_message(&mut self, from: i32, message: TransactionMessage) {
        match message {
            TransactionMessage::WriteMarkers { number, marker, partitions } => {
                self.tell_for(from, number, marker, partitions);
            }
            TransactionMessage::MarkersWritten { number, codes } => self.node_told(from, number, &codes),
            TransactionMessage::Verify { number, verify } => {
                self.ask_coordinator(Waiter::Node(from, number), &verify);
            }
            TransactionMessage::Verified { number, code } => self.node_verified(from, number, code),
        }
    }

    /// The coordinator here answers another node; if the link is lost, it is asked again.
    pub(super) fn answer_question_of(&mut self, node: i32, number: u64, result: Result<(), TransactionError>) {
        let code = result.err().map_or(0, TransactionError::code);
        self.send_control(node, &Control::Transaction(TransactionMessage::Verified { number, code }));
    }

    /// The link to a node is lost, and what it was asked with it.
    pub(crate) fn ask_again_without(&mut self, node: i32) {
        self.tell_again_without(node);
        self.question_again_without(node);
    }
}
