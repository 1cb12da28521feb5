/* What the module itself can do: one operation in a loop, called from C with nothing in between.
 *
 * usage: c_loop MODULE TOKEN-LABEL PIN-FILE KEY-LABEL OPERATION BYTES SECONDS
 * OPERATION is hmac, cbc or rsa. Prints operations per second.
 * The few declarations of PKCS#11 2.40 it needs are written out, so that no header package is required.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef unsigned long ulong_t;
typedef struct { ulong_t type; void *value; ulong_t length; } attribute_t;
typedef struct { ulong_t mechanism; void *parameter; ulong_t length; } mechanism_t;
typedef struct { void *callbacks[4]; ulong_t flags; void *reserved; } initialize_t;
typedef ulong_t (*call_t)();

enum { INITIALIZE = 0, FINALIZE = 1, SLOT_LIST = 4, TOKEN_INFO = 6, OPEN_SESSION = 12, LOGIN = 18, FIND_INIT = 26,
       FIND = 27, FIND_FINAL = 28, ENCRYPT_INIT = 29, ENCRYPT = 30, SIGN_INIT = 42, SIGN = 43 };

static call_t *functions;

static ulong_t check(const char *what, ulong_t code) {
    if (code) { fprintf(stderr, "%s: 0x%lx\n", what, code); exit(1); }
    return code;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static ulong_t slot_of(const char *label) {
    ulong_t slots[64], count = 64, index;
    unsigned char info[1024], padded[32];
    memset(padded, ' ', sizeof padded);
    memcpy(padded, label, strlen(label));
    check("C_GetSlotList", functions[SLOT_LIST]((unsigned char)1, slots, &count));
    for (index = 0; index < count; index++)
        if (!functions[TOKEN_INFO](slots[index], info) && !memcmp(info, padded, sizeof padded)) return slots[index];
    fprintf(stderr, "no token %s\n", label);
    exit(1);
}

int main(int count, char **arguments) {
    if (count != 8) { fprintf(stderr, "usage: c_loop MODULE TOKEN PIN-FILE KEY OPERATION BYTES SECONDS\n"); return 64; }
    void *module = dlopen(arguments[1], RTLD_NOW);
    if (!module) { fprintf(stderr, "%s\n", dlerror()); return 1; }
    void *list;
    check("C_GetFunctionList", ((call_t)dlsym(module, "C_GetFunctionList"))(&list));
    functions = (call_t *)((char *)list + sizeof(void *)); /* after the version */

    initialize_t locking = {{0}, 2, 0};
    check("C_Initialize", functions[INITIALIZE](&locking));
    ulong_t session, key, found = 0;
    check("C_OpenSession", functions[OPEN_SESSION](slot_of(arguments[2]), 4UL, NULL, NULL, &session));
    char pin[256] = {0};
    FILE *file = fopen(arguments[3], "r");
    if (!file || !fgets(pin, sizeof pin, file)) { perror(arguments[3]); return 1; }
    pin[strcspn(pin, "\n")] = 0;
    check("C_Login", functions[LOGIN](session, 1UL, pin, (ulong_t)strlen(pin)));

    int rsa = !strcmp(arguments[5], "rsa"), cbc = !strcmp(arguments[5], "cbc");
    ulong_t class = rsa ? 3 : 4;
    attribute_t template[] = {{0x00, &class, sizeof class}, {0x03, arguments[4], strlen(arguments[4])}};
    check("C_FindObjectsInit", functions[FIND_INIT](session, template, 2UL));
    check("C_FindObjects", functions[FIND](session, &key, 1UL, &found));
    check("C_FindObjectsFinal", functions[FIND_FINAL](session));
    if (!found) { fprintf(stderr, "no key %s\n", arguments[4]); return 1; }

    ulong_t size = strtoul(arguments[6], NULL, 10), length, operations = 0, start_function, function;
    unsigned char *data = calloc(1, size), *output = malloc(size + 4096), vector[16] = {0};
    mechanism_t mechanism = {rsa ? 0x40 : cbc ? 0x1082 : 0x251, cbc ? vector : NULL, cbc ? sizeof vector : 0};
    start_function = cbc ? ENCRYPT_INIT : SIGN_INIT;
    function = cbc ? ENCRYPT : SIGN;
    double seconds = strtod(arguments[7], NULL), start = now(), elapsed;
    do {
        for (int round = 0; round < 16; round++) {
            check("init", functions[start_function](session, &mechanism, key));
            length = size + 4096;
            check("operation", functions[function](session, data, size, output, &length));
            operations++;
        }
        elapsed = now() - start;
    } while (elapsed < seconds);
    printf("%.1f\n", operations / elapsed);
    functions[FINALIZE](NULL);
    return 0;
}
