/* System calls that are given an address where nothing is: each says so, and nothing else happens. */
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>

#include "check.h"

/* In the first page, far from everything, and in the kernel's half. */
static char *const addresses[] = {(char *)8, (char *)0x100000000000, (char *)-4096L};
static int file, directory, ends[2], pair[2], set, timer;

#define CALL(number, ...) \
    __extension__({ errno = 0; check_number(#number, syscall(SYS_##number, __VA_ARGS__)); })

static void files(char *bad) {
    CALL(read, file, bad, 10);
    CALL(write, file, bad, 10);
    CALL(pread64, file, bad, 10, 0);
    CALL(pwrite64, file, bad, 10, 0);
    CALL(readv, file, bad, 1);
    CALL(writev, file, bad, 1);
    CALL(readv, file, (&(struct iovec){bad, 10}), 1);
    CALL(writev, file, (&(struct iovec){bad, 10}), 1);
    CALL(open, bad, O_RDONLY);
    CALL(openat, AT_FDCWD, bad, O_RDONLY);
    CALL(stat, bad, bad);
    CALL(lstat, "/", bad);
    CALL(fstat, file, bad);
    CALL(newfstatat, AT_FDCWD, "/", bad, 0);
    CALL(statx, AT_FDCWD, "/", 0, STATX_BASIC_STATS, bad);
    CALL(statfs, "/", bad);
    CALL(fstatfs, file, bad);
    CALL(access, bad, F_OK);
    CALL(faccessat, AT_FDCWD, bad, F_OK);
    CALL(getcwd, bad, 4096);
    CALL(chdir, bad);
    CALL(mkdir, bad, 0755);
    CALL(rmdir, bad);
    CALL(unlink, bad);
    CALL(unlinkat, AT_FDCWD, bad, 0);
    CALL(rename, "nothing", bad);
    CALL(link, "file", bad);
    CALL(symlink, bad, "link");
    CALL(readlink, "/proc/self/exe", bad, 100);
    CALL(readlink, bad, bad, 100);
    CALL(chmod, bad, 0644);
    CALL(truncate, bad, 0);
    CALL(utimensat, AT_FDCWD, ".", bad, 0);
    CALL(getdents64, directory, bad, 4096);
    CALL(pipe2, bad, 0);
    CALL(sendfile, file, file, bad, 1);
    CALL(fcntl, file, F_GETLK, bad);
    CALL(ioctl, ends[0], 0x541B, bad); /* FIONREAD */
}

static void sockets(char *bad) {
    struct msghdr message = {.msg_iov = (struct iovec *)bad, .msg_iovlen = 1};
    CALL(socketpair, AF_UNIX, SOCK_STREAM, 0, bad);
    CALL(bind, pair[0], bad, 16);
    CALL(connect, pair[0], bad, 16);
    CALL(getsockname, pair[0], bad, bad);
    CALL(getsockopt, pair[0], SOL_SOCKET, SO_TYPE, bad, bad);
    CALL(setsockopt, pair[0], SOL_SOCKET, SO_REUSEADDR, bad, 4);
    CALL(sendto, pair[0], bad, 10, 0, NULL, 0);
    CALL(recvfrom, pair[1], bad, 10, 0, NULL, NULL);
    CALL(sendmsg, pair[0], bad, 0);
    CALL(recvmsg, pair[1], bad, 0);
    CALL(sendmsg, pair[0], &message, 0);
    CALL(recvmsg, pair[1], &message, 0);
}

static void waiting(char *bad) {
    struct epoll_event event = {.events = EPOLLOUT};
    CALL(poll, bad, 1, 0);
    CALL(ppoll, bad, 1, NULL, NULL, 0);
    CALL(ppoll, NULL, 0, bad, NULL, 0);
    CALL(select, 1, bad, NULL, NULL, NULL);
    CALL(pselect6, 1, bad, NULL, NULL, NULL, NULL);
    CALL(epoll_ctl, set, EPOLL_CTL_ADD, ends[0], bad);
    CALL(epoll_ctl, set, EPOLL_CTL_ADD, ends[1], &event);
    CALL(epoll_wait, set, bad, 1, 0);
    CALL(epoll_ctl, set, EPOLL_CTL_DEL, ends[1], &event);
    CALL(timerfd_settime, timer, 0, bad, NULL);
    CALL(timerfd_gettime, timer, bad);
    CALL(signalfd4, -1, bad, 8, 0);
}

static void process(char *bad) {
    CALL(rt_sigaction, SIGUSR1, bad, NULL, 8);
    CALL(rt_sigaction, SIGUSR1, NULL, bad, 8);
    CALL(rt_sigprocmask, SIG_BLOCK, bad, NULL, 8);
    CALL(rt_sigprocmask, SIG_BLOCK, NULL, bad, 8);
    CALL(rt_sigpending, bad, 8);
    CALL(rt_sigtimedwait, bad, NULL, NULL, 8);
    CALL(sigaltstack, bad, NULL);
    CALL(setitimer, 0, bad, NULL);
    CALL(getitimer, 0, bad);
    CALL(nanosleep, bad, NULL);
    CALL(clock_nanosleep, 1, 0, bad, NULL);
    CALL(clock_gettime, 1, bad);
    CALL(clock_getres, 1, bad);
    CALL(gettimeofday, bad, NULL);
    CALL(time, bad);
    CALL(times, bad);
    CALL(uname, bad);
    CALL(sysinfo, bad);
    CALL(getrandom, bad, 16, 0);
    CALL(getrlimit, 7, bad);
    CALL(prlimit64, 0, 7, NULL, bad);
    CALL(getrusage, 0, bad);
    CALL(sched_getaffinity, 0, 128, bad);
    CALL(prctl, 15, bad); /* PR_SET_NAME */
    CALL(prctl, 16, bad); /* PR_GET_NAME */
}

int main(void) {
    enter_directory("/tmp/bad-pointers");
    write_file("file", "0123456789");
    file = open("file", O_RDWR);
    directory = open(".", O_RDONLY);
    set = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    require(pipe(ends) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "pipe");
    require(write(ends[1], "x", 1) == 1 && write(pair[0], "0123456789", 10) == 10, "write");
    for (size_t i = 0; i < sizeof addresses / sizeof addresses[0]; i++) {
        printf("address %zu\n", i);
        lseek(file, 0, SEEK_SET);
        files(addresses[i]);
        sockets(addresses[i]);
        waiting(addresses[i]);
        process(addresses[i]);
    }
    return 0;
}
