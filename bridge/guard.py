"""Child processes that end with the process that started them, however that one ends, SIGKILL included.

The command line from ``guarded`` runs this file as a script, on the standard library alone:
nothing of it happens between fork and exec, which would not be safe in a process with threads.
"""

import os
import signal
import sys
import threading
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def guarded(command: Sequence[str]) -> list[str]:
    """The command line to spawn, from this thread, instead of ``command`` (whose program is an absolute path).

    On Linux the kernel kills the child together with the *thread* that forked it. That serves
    the main thread only; the pid is the program's own. Elsewhere (``needs_pipe``) a watchdog
    runs the program, kills it when its standard input ends, forwards signals and ends as it
    ends: spawn that with ``stdin=PIPE`` and write nothing there.
    """
    how = "pipe" if needs_pipe() else str(os.getpid())
    return [sys.executable, "-I", "-S", __file__, how, *command]


def needs_pipe() -> bool:
    """Whether a child of this thread has to be watched through its standard input."""
    return sys.platform != "linux" or threading.current_thread() is not threading.main_thread()


def _die_with(parent: int) -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it was gone before the line above, so no signal will come
        os._exit(1)


def _watch(command: Sequence[str]) -> None:
    import subprocess

    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda number, _frame: child.send_signal(number))

    def kill_at_end_of_input() -> None:
        while os.read(0, 4096):
            pass
        child.kill()

    threading.Thread(target=kill_at_end_of_input, daemon=True).start()
    code = child.wait()
    if code < 0:  # end by the same signal
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def main() -> None:
    how, *command = sys.argv[1:]
    if how == "pipe":
        _watch(command)
    _die_with(int(how))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec hands that on
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
