/*
 * A thaw-machine without a machine: speaks the control protocol of api/ctl.h,
 * needs no KVM, and misbehaves on demand. The test's own executable becomes it
 * when it is started with "--ctl". What it does wrong is named in the
 * configuration's cmdline:
 *
 *   setup-fails      the zygote refuses its snapshot
 *   ready-never      the builder is never ready
 *   clone-fails      clones report that they failed
 *   clone-silent     clones never report
 *   clone-dies       clones die of SIGKILL before they report
 *   clone-crashes    clones die of SIGSEGV when they are invoked
 *   clone-ends       clones report the end of their guest when invoked
 *   clone-ends-late  the same, 300 ms later
 *   invoke-silent    invokes are not answered
 *   zygote-lies      the zygote passes its own pidfd instead of a clone's
 *   zygote-garbage   the zygote sends messages that nobody expects
 *   zygote-dies      the zygote dies when asked for clones
 *   snapshot-parent  the machine names its parent, the daemon, as the process
 *                    that holds it frozen
 *   snapshot-nobody  the machine names no process
 *   snapshot-dies    that process is gone at once
 *   snapshot-raves   that process sends nonsense, then ends
 */
#ifndef THAW_TESTS_UNIT_FAKE_MACHINE_H
#define THAW_TESTS_UNIT_FAKE_MACHINE_H

/* The exit code of the process. */
int fake_machine_run(int argc, char **argv);

#endif
