/* Ends its first thread while another continues: a zombie that still runs. */
#include <pthread.h>
#include <unistd.h>
static void *run(void *none) { for (;;) sleep(60); return none; }
int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, run, 0);
    pthread_exit(0);
}
