/* Forks and exits in an endless chain, so that no process lives long. */
#include <unistd.h>
int main(void) {
    if (fork()) { usleep(50000); _exit(0); }
    for (;;) if (fork() > 0) _exit(0);
}
