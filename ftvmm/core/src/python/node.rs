//! `ftvmm._core.Node`: one node of a fault-tolerant pair.

use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::node::command::{Command, Peer};
use crate::node::runtime::{Effect, Mail};
use crate::node::start::RunningNode;
use crate::node::status;
use crate::protocol::{ArbiterRecord, Generation, Incarnation};
use crate::remark::wait_until_said;

create_exception!(_core, NodeError, PyException, "A node that cannot start; the message says why.");

/// A node whose threads run; Python carries out what only Python can (arbiters), and never takes part in the hot path.
#[pyclass(frozen)]
pub struct Node(RunningNode);

impl Node {
    fn command(&self, command: Command) -> PyResult<()> {
        self.0.mail.tell(Mail::Command(command)).map_err(|_| PyRuntimeError::new_err("the node has ended"))
    }

    /// A command of which the node's thread says whether it is tried.
    fn try_command(
        &self,
        python: Python<'_>,
        command: impl FnOnce(Sender<Result<(), String>>) -> Command,
    ) -> PyResult<()> {
        let (to, tried) = bounded(1);
        self.command(command(to))?;
        let tried = python.detach(|| tried.recv());
        tried.map_err(|_| PyRuntimeError::new_err("the node has ended"))?.map_err(NodeError::new_err)
    }
}

#[pymethods]
impl Node {
    /// Starts a node as a SPARE from its configuration as JSON.
    #[new]
    fn new(python: Python<'_>, document: &str) -> PyResult<Node> {
        python.detach(|| RunningNode::start(document)).map(Node).map_err(|error| NodeError::new_err(error.to_string()))
    }

    /// The random number of this process start.
    #[getter]
    fn incarnation(&self) -> u64 {
        self.0.incarnation.0
    }

    /// With `bootstrap`, claims generation 1 and dials the peer.
    fn start(&self, bootstrap: bool) -> PyResult<()> {
        if bootstrap { self.command(Command::Bootstrap) } else { Ok(()) }
    }

    /// Ends the node in order.
    fn stop(&self) -> PyResult<()> {
        // A node that has ended needs no second end.
        let _ = self.command(Command::Stop);
        Ok(())
    }

    /// The VM is to have a backup again, on a node that is here (JSON of `runtime::Peer`); where this one runs it alone.
    fn protect(&self, python: Python<'_>, document: &str) -> PyResult<()> {
        let peer: Peer = serde_json::from_str(document).map_err(|error| PyValueError::new_err(error.to_string()))?;
        self.try_command(python, |to| Command::Protect(peer, to))
    }

    /// The primary is to go on without its backup, and to look for a new one on a node that is here (JSON of `runtime::Peer`), if one is given.
    fn let_backup_go(&self, python: Python<'_>, document: Option<&str>) -> PyResult<()> {
        let peer: Option<Peer> = document
            .map(serde_json::from_str)
            .transpose()
            .map_err(|error: serde_json::Error| PyValueError::new_err(error.to_string()))?;
        self.try_command(python, |to| Command::LetBackupGo(peer, to))
    }

    /// The VM is to be the backup's.
    fn hand_over(&self, python: Python<'_>) -> PyResult<()> {
        self.try_command(python, Command::HandOver)
    }

    /// The arbiter's record in answer to question `request`; generation 0 stands for "none yet".
    fn arbiter_answer(&self, request: u64, generation: u64, incarnation: u64) -> PyResult<()> {
        let record = ArbiterRecord { generation: Generation(generation), incarnation: Incarnation(incarnation) };
        let _ = self.command(Command::Arbiter { request, record: Some(record) });
        Ok(())
    }

    /// Question `request` got no answer.
    fn arbiter_unreachable(&self, request: u64) -> PyResult<()> {
        let _ = self.command(Command::Arbiter { request, record: None });
        Ok(())
    }

    /// What `ftvmm status` shows, as JSON.
    fn status(&self, python: Python<'_>) -> String {
        python.detach(|| status::json(&self.0).to_string())
    }

    /// Waits for something that Python has to carry out: `("read-arbiter", request)`, `("check-arbiter", request)`,
    /// `("ask-arbiter", request, generation)` or `("exit", status, reason)`; None after `timeout_ms` milliseconds.
    fn next_effect<'py>(&self, python: Python<'py>, timeout_ms: u64) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let effect = python.detach(|| self.0.effects.recv_timeout(Duration::from_millis(timeout_ms)));
        Ok(match effect {
            Ok(Effect::ReadArbiter(request)) => Some(("read-arbiter", request).into_pyobject(python)?),
            Ok(Effect::CheckArbiter(request)) => Some(("check-arbiter", request).into_pyobject(python)?),
            Ok(Effect::AskArbiter(request, generation)) => {
                Some(("ask-arbiter", request, generation.0).into_pyobject(python)?)
            }
            Ok(Effect::Exit(status, reason)) => {
                python.detach(wait_until_said);
                Some(("exit", status, reason).into_pyobject(python)?)
            }
            Err(_) => None,
        })
    }
}
