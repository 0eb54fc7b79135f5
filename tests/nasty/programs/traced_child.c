/* Leaves a tracer and a child that the tracer has stopped. */
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>
int main(void) {
    if (fork()) { usleep(50000); return 0; }
    pid_t child = fork();
    if (child == 0) { ptrace(PTRACE_TRACEME, 0, 0, 0); raise(SIGSTOP); for (;;) pause(); }
    for (;;) {
        int status;
        waitpid(child, &status, 0);
        if (WIFSTOPPED(status)) ptrace(PTRACE_CONT, child, 0, 0);
    }
}
