//! What people say of executions.
//!
//! Invariant: it changes no verdict, and nothing but the execution's own row and what finds it by its labels.

use provender_core::name::Space;
use provender_core::remarks::Remark;
use provender_core::{Execution, ExecutionId, rows};
use provender_proto::convert::Invalid;
use provender_proto::rows as values;

use super::{Store, StoreError};

impl Store {
    /// Changes what is said of an execution, whether it has ended or not; what it is now.
    pub async fn annotate(&self, space: &Space, id: ExecutionId, remark: &Remark) -> Result<Execution, StoreError> {
        self.transact(|mut txn| async move {
            let before = self.execution_in(&mut txn, space, id).await?;
            let remarks = before.remarks.clone().with(remark).map_err(|error| Invalid::new("remarks", error))?;
            let execution = Execution { remarks, ..before.clone() };
            if execution != before {
                Store::index_labels(&mut txn, space, &before, &execution);
                txn.put(rows::execution(space, id), values::execution_to(&execution));
            }
            Ok((txn, execution))
        })
        .await
    }
}
