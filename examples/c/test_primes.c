/* A test in C.  `make demo` compiles it; by hand: cc -o test_primes test_primes.c */
#include <stdio.h>

#define LIMIT 10000

int main(void)
{
    static char composite[LIMIT];
    int count = 0;

    for (int n = 2; n < LIMIT; n++) {
        if (composite[n])
            continue;
        count++;
        for (int m = 2 * n; m < LIMIT; m += n)
            composite[m] = 1;
    }
    printf("%d primes below %d\n", count, LIMIT);
    return count != 1229;
}
