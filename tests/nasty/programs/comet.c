/* A process that is never there: it forks and ends, forks and ends. */
#include <unistd.h>
int main(void) {
    if (fork()) { usleep(50000); _exit(0); }
    for (;;) if (fork() > 0) _exit(0);
}
