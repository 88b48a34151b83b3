/* System calls that the C library does not make any more, or makes under other names. */
#include <dirent.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

#include "check.h"

#define CALL(number, ...) \
    __extension__({ errno = 0; check_number(#number, syscall(SYS_##number, ##__VA_ARGS__)); })

static char buffer[1024];

static void files(void) {
    struct stat status;
    int file = (int)CALL(open, "old", O_CREAT | O_RDWR, 0644);
    CALL(write, file, "text", 4);
    CALL(close, file);
    file = (int)CALL(creat, "old", 0600);
    CALL(close, file);
    CALL(stat, "old", &status);
    CHECK(status.st_size);
    CALL(lstat, "old", &status);
    CALL(stat, "missing", &status);
    CALL(lstat, "missing", &status);
    CALL(access, "old", F_OK);
    CALL(faccessat, AT_FDCWD, "old", F_OK);
    CALL(faccessat2, AT_FDCWD, "old", F_OK, AT_EACCESS);
    CALL(mkdir, "directory", 0755);
    CALL(rename, "old", "directory/new");
    CALL(renameat, AT_FDCWD, "directory/new", AT_FDCWD, "new");
    CALL(renameat2, AT_FDCWD, "new", AT_FDCWD, "newer", 0);
    CALL(link, "newer", "linked");
    CALL(symlink, "newer", "soft");
    CALL(readlink, "soft", buffer, 100);
    CALL(readlinkat, AT_FDCWD, "soft", buffer, 100);
    CALL(chmod, "newer", 0644);
    CALL(chown, "newer", 0, 0);
    CALL(lchown, "soft", 0, 0);
    CALL(utime, "newer", NULL);
    CALL(utimes, "newer", NULL);
    CALL(futimesat, AT_FDCWD, "newer", NULL);
    CALL(unlink, "newer");
    CALL(unlink, "linked");
    CALL(unlink, "soft");
    CALL(rmdir, "directory");
}

static void entries(void) {
    int directory = open(".", O_RDONLY), names = 0;
    write_file("one", "");
    write_file("two", "");
    long length = syscall(SYS_getdents64, directory, buffer, sizeof buffer);
    for (long at = 0; at < length; at += ((struct dirent64 *)(buffer + at))->d_reclen)
        names++;
    CHECK(names);
    CALL(getdents64, directory, buffer, sizeof buffer);
    CALL(lseek, directory, 0, SEEK_SET);
    CALL(getdents64, directory, buffer, 10);
    CHECK_THAT(syscall(SYS_getdents64, directory, buffer, sizeof buffer) == length);
    CALL(getdents64, 999, buffer, sizeof buffer);
    int file = open("one", O_RDONLY);
    CALL(getdents64, file, buffer, sizeof buffer);
    CHECK(close(file) + close(directory) + unlink("one") + unlink("two"));
}

static void descriptors(void) {
    int ends[2];
    struct epoll_event event = {.events = EPOLLIN};
    struct pollfd file;
    struct timeval none = {0};
    fd_set reading;
    CALL(pipe, ends);
    int set = (int)CALL(epoll_create, 1);
    CALL(epoll_ctl, set, EPOLL_CTL_ADD, ends[0], &event);
    CALL(epoll_wait, set, &event, 1, 0);
    CALL(epoll_pwait, set, &event, 1, 0, NULL, 8);
    file = (struct pollfd){.fd = ends[1], .events = POLLOUT};
    CALL(poll, &file, 1, 0);
    FD_ZERO(&reading);
    FD_SET(ends[0], &reading);
    CALL(select, ends[0] + 1, &reading, NULL, NULL, &none);
    int event_counter = (int)CALL(eventfd, 3);
    CALL(read, event_counter, buffer, 8);
    CHECK(buffer[0]);
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    int signal_file = (int)CALL(signalfd, -1, &signals, 8);
    CALL(dup, ends[0]);
    CALL(dup2, ends[0], 20);
    CHECK(close_range(3, 20, 0));
    CALL(fcntl, signal_file, F_GETFD);
}

static void sockets(void) {
    int pair[2];
    CALL(socketpair, AF_UNIX, SOCK_STREAM, 0, pair);
    CALL(sendto, pair[0], "hello", 5, 0, NULL, 0);
    CALL(recvfrom, pair[1], buffer, 100, 0, NULL, NULL);
    CALL(accept, pair[0], NULL, NULL);
    CHECK(close(pair[0]) + close(pair[1]));
}

static void process(void) {
    struct sched_param parameters = {0};
    unsigned long limits[2];
    CALL(getrlimit, 7, limits);
    CALL(setrlimit, 7, limits);
    CHECK_THAT(syscall(SYS_getpgrp) >= 0);
    CALL(alarm, 100);
    CHECK_THAT(syscall(SYS_alarm, 0) >= 90);
    CALL(sched_getparam, 0, &parameters);
    CHECK(parameters.sched_priority);
    CALL(sched_getparam, 999999999, &parameters);
    CALL(sched_yield);
    CALL(rt_sigtimedwait, (&(sigset_t){{0}}), NULL, (&(struct timespec){0}), 8);
    CALL(sched_get_priority_min, 0);
}

int main(void) {
    enter_directory("/tmp/old-calls");
    RUN(files);
    RUN(entries);
    RUN(descriptors);
    RUN(sockets);
    RUN(process);
    return 0;
}
