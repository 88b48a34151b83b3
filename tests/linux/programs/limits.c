/* Limits that the process sets for itself. */
#include <sys/resource.h>

#include "check.h"

static void values(void) {
    struct rlimit limit, changed;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit));
    changed = limit;
    changed.rlim_cur = 100;
    CHECK(setrlimit(RLIMIT_NOFILE, &changed));
    CHECK(getrlimit(RLIMIT_NOFILE, &changed));
    CHECK((long)changed.rlim_cur);
    CHECK(prlimit(0, RLIMIT_NOFILE, &limit, &changed));
    CHECK((long)changed.rlim_cur);
}

static void open_files(void) {
    struct rlimit limit, small;
    int opened = 0, ends[2];
    CHECK(getrlimit(RLIMIT_NOFILE, &limit));
    small = limit;
    small.rlim_cur = 10;
    CHECK(setrlimit(RLIMIT_NOFILE, &small));
    while (opened < 100 && open("/dev/null", O_RDONLY) >= 0)
        opened++;
    CHECK(opened);
    CHECK(dup(0));
    CHECK(pipe(ends));
    CHECK(dup2(0, 10));
    CHECK(fcntl(0, F_DUPFD, 10));
    CHECK(setrlimit(RLIMIT_NOFILE, &limit));
    CHECK(dup(0));
}

int main(void) {
    RUN(values);
    RUN(open_files);
    return 0;
}
