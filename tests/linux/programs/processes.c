/* The process: who it is, what it may use, its numbers, and that there is one only. */
#include <asm/prctl.h>
#include <grp.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "check.h"

static void numbers(void) {
    uid_t real, effective, saved;
    CHECK_THAT(getpid() > 0);
    CHECK_THAT(getppid() >= 0);
    CHECK_THAT(gettid() == getpid());
    CHECK_THAT(syscall(SYS_set_tid_address, NULL) == getpid());
    CHECK(getuid());
    CHECK(geteuid());
    CHECK(getgid());
    CHECK(getegid());
    CHECK(getresuid(&real, &effective, &saved));
    CHECK_THAT(real == 0 && effective == 0 && saved == 0);
    CHECK(getresgid(&real, &effective, &saved));
    CHECK(setuid(0) + setgid(0) + seteuid(0) + setegid(0));
    CHECK(setreuid(0, 0) + setregid(0, 0) + setresuid(0, 0, 0) + setresgid(0, 0, 0) + setgroups(0, NULL));
    CHECK_THAT(getpgrp() >= 0 && getpgrp() == getpgid(0));
    CHECK_THAT(setsid() == getpid() && getsid(0) == getpid() && getpgrp() == getpid());
    CHECK(getgroups(0, NULL));
    CHECK(getpgid(999999999));
    CHECK(getsid(999999999));
}

static void names(void) {
    struct utsname name;
    char text[16] = "";
    CHECK(uname(&name));
    CHECK_TEXT(name.sysname);
    CHECK_TEXT(name.machine);
    CHECK_THAT(name.nodename[0] != 0 && name.release[0] != 0);
    CHECK(prctl(PR_GET_NAME, text));
    CHECK_TEXT(text);
    CHECK(prctl(PR_SET_NAME, "a name that is too long"));
    CHECK(prctl(PR_GET_NAME, text));
    CHECK_TEXT(text);
    CHECK(prctl(PR_GET_DUMPABLE) >= 0);
    CHECK(prctl(PR_SET_DUMPABLE, 1));
    CHECK(prctl(99999, 0, 0, 0, 0));
}

static void limits(void) {
    struct rlimit limit, changed;
    int sound = 0;
    for (int resource = RLIMIT_CPU; resource <= RLIMIT_RTTIME; resource++)
        sound += getrlimit(resource, &limit) == 0 && limit.rlim_cur <= limit.rlim_max;
    CHECK(sound);
    CHECK(getrlimit(99, &limit));
    CHECK(getrlimit(RLIMIT_STACK, &limit));
    CHECK_THAT(limit.rlim_cur >= 1 << 20);
    CHECK(getrlimit(RLIMIT_NOFILE, &limit));
    CHECK(setrlimit(RLIMIT_NOFILE, &limit));
    CHECK(prlimit(0, RLIMIT_NOFILE, &limit, &changed));
    CHECK_THAT(changed.rlim_cur == limit.rlim_cur && changed.rlim_max == limit.rlim_max);
    changed.rlim_cur = 2;
    changed.rlim_max = 1;
    CHECK(setrlimit(RLIMIT_NOFILE, &changed));
    CHECK(setrlimit(99, &limit));
    CHECK(prlimit(999999999, RLIMIT_NOFILE, NULL, &changed));
}

static void usage(void) {
    struct rusage before, after;
    CHECK(getrusage(RUSAGE_SELF, &before));
    CHECK(getrusage(RUSAGE_SELF, &after));
    CHECK_THAT(after.ru_utime.tv_sec >= before.ru_utime.tv_sec);
    CHECK(getrusage(RUSAGE_THREAD, &after));
    CHECK(getrusage(RUSAGE_CHILDREN, &after));
    CHECK((long)after.ru_utime.tv_sec);
    CHECK(getrusage(99, &after));
}

static void the_machine(void) {
    struct sysinfo information;
    CHECK(sysinfo(&information));
    CHECK_THAT(information.totalram > 0 && information.freeram <= information.totalram && information.mem_unit > 0);
    CHECK_THAT(information.uptime >= 0 && information.procs >= 1);
    CHECK_THAT(sysconf(_SC_NPROCESSORS_ONLN) >= 1 && sysconf(_SC_NPROCESSORS_CONF) >= 1);
    CHECK(sysconf(_SC_PAGESIZE));
    CHECK_THAT(sysconf(_SC_PHYS_PAGES) > 0 && sysconf(_SC_AVPHYS_PAGES) > 0);
    CHECK_THAT(sysconf(_SC_OPEN_MAX) > 0);
    CHECK((long)getauxval(AT_PAGESZ));
    CHECK((long)getauxval(AT_SECURE));
    CHECK((long)getauxval(AT_CLKTCK));
    CHECK((long)getauxval(AT_UID));
    CHECK_THAT(getauxval(AT_RANDOM) != 0 && getauxval(AT_PHDR) != 0 && getauxval(AT_ENTRY) != 0);
    CHECK_TEXT((const char *)getauxval(AT_PLATFORM));
}

static void processors(void) {
    cpu_set_t set;
    CHECK(sched_getaffinity(0, sizeof set, &set));
    CHECK_THAT(CPU_COUNT(&set) >= 1);
    CHECK(sched_setaffinity(0, sizeof set, &set));
    CHECK(syscall(SYS_sched_getaffinity, 0, 0, &set));
    CHECK(sched_getaffinity(999999999, sizeof set, &set));
    CHECK(sched_yield());
    CHECK(sched_get_priority_max(SCHED_OTHER) + sched_get_priority_min(SCHED_OTHER));
    CHECK_OK(sched_getscheduler(0));
    errno = 0;
    int priority = getpriority(PRIO_PROCESS, 0);
    CHECK_THAT(errno == 0);
    CHECK(setpriority(PRIO_PROCESS, 0, priority));
}

static void chance(void) {
    unsigned char first[32] = {0}, second[32] = {0}, large[300];
    CHECK(getrandom(first, sizeof first, 0));
    CHECK(getrandom(second, sizeof second, GRND_NONBLOCK));
    CHECK_THAT(memcmp(first, second, sizeof first) != 0);
    CHECK(getrandom(first, 0, 0));
    CHECK(getrandom(first, 1, 99));
    CHECK(getentropy(first, sizeof first));
    CHECK(getentropy(large, 257));
}

static void thread_pointer(void) {
    unsigned long base = 0;
    static __thread int own = 5;
    CHECK(syscall(SYS_arch_prctl, ARCH_GET_FS, &base));
    CHECK_THAT(base == (unsigned long)__builtin_thread_pointer());
    CHECK(syscall(SYS_arch_prctl, ARCH_SET_FS, base));
    CHECK(own);
    CHECK(syscall(SYS_arch_prctl, 0x9999, &base));
}

static void no_such_call(void) {
    CHECK(syscall(999));
}

/* A child that ends at once, natively; nothing in the VM. */
static void children(void) {
    int status;
    CHECK(waitpid(-1, &status, WNOHANG));
    CHECK(waitpid(999999999, &status, 0));
    CHECK(waitid(P_ALL, 0, NULL, WEXITED));
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    printf("fork: %s\n", child > 0 ? "ok" : check_error(errno));
    printf("waitpid: %s\n", waitpid(child, &status, 0) > 0 ? "ok" : check_error(errno));
    char *const nothing[] = {NULL};
    CHECK(execve("/missing", nothing, nothing));
}

int main(void) {
    RUN(numbers);
    RUN(names);
    RUN(limits);
    RUN(usage);
    RUN(the_machine);
    RUN(processors);
    RUN(chance);
    RUN(thread_pointer);
    RUN(no_such_call);
    RUN(children);
    return 0;
}
