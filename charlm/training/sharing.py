"""Adapt a run to other load: changes of its number of threads are logged, recorded and explained."""

from charlm.model.sharing import ThreadBalancer
from charlm.progress import ThreadChange, TrainingProgress
from charlm.training.monitor import Monitor


class ThreadSharing:
    """Uses fewer threads while other programs need the processors, and warns once that they slow the run.

    ``is_shared``: the run has several processes, which are no reason to use fewer threads.
    """

    def __init__(self, balancer: ThreadBalancer, is_shared: bool = False) -> None:
        self.balancer = balancer
        self.is_shared = is_shared
        self.warned = False

    def resume(self, progress: TrainingProgress) -> None:
        """Record that a run saved with fewer threads resumes with all of them."""
        changes = progress.thread_changes
        if changes and changes[-1].threads != self.balancer.threads:
            changes.append(ThreadChange(step=progress.steps, threads=self.balancer.threads))

    def check(self, progress: TrainingProgress, monitor: Monitor) -> None:
        if self.is_shared:
            return
        balancer, step = self.balancer, progress.steps
        if balancer.balance():
            progress.thread_changes.append(ThreadChange(step=step, threads=balancer.threads))
            monitor.log_threads(step, balancer.threads)
        if balancer.is_slowed and not self.warned:
            self.warned = True
            if balancer.fixed:
                advice = "Pause them, or let charlm adapt its threads: --threads 0, and OMP_NUM_THREADS not set."
            else:
                advice = (
                    f"It uses {balancer.threads} of {balancer.max_threads} threads until the machine is quiet again."
                )
            monitor.print_line(f"Other programs have been slowing this run since step {step}. {advice}")
