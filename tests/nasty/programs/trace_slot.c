/* Attaches a debugger to its parent and sleeps. */
#include <sys/ptrace.h>
#include <unistd.h>
int main(void) {
    if (ptrace(PTRACE_ATTACH, getppid(), 0, 0)) return 77;
    sleep(60);
    return 0;
}
