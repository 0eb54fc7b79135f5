/* Forks and exits in an endless chain, each process in its own session. */
#include <unistd.h>
int main(void) {
    if (fork()) { usleep(50000); _exit(0); }
    for (;;) { if (fork() > 0) _exit(0); setsid(); }
}
