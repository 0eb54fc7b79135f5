/* The same, each generation in a session of its own. */
#include <unistd.h>
int main(void) {
    if (fork()) { usleep(50000); _exit(0); }
    for (;;) { if (fork() > 0) _exit(0); setsid(); }
}
