/* Is blocked in the kernel by vfork(2), with a child that never ends. */
#define _DEFAULT_SOURCE
#include <unistd.h>
int main(void) {
    if (vfork() == 0) { for (;;) sleep(60); }
    return 0;
}
