/* What the programs print: a line for each thing looked at, with its text, what came of it and the name of the error.
 * A line holds nothing in which two right systems may differ: no address, no number of a process, no time.
 * They are compiled with -D_GNU_SOURCE. */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Starts a new topic: a function of the program. */
#define RUN(topic) (printf("[%s]\n", #topic), topic())

/* The number itself, and after -1 the error. Gives the number. */
#define CHECK(expression) \
    __extension__({ errno = 0; check_number(#expression, (long)(expression)); })

/* `ok` for each number from 0 on, else the error. Gives the number. */
#define CHECK_OK(expression) \
    __extension__({ errno = 0; check_success(#expression, (long)(expression)); })

/* What POSIX threads' functions return: 0 or an error. */
#define CHECK_CODE(expression) check_code(#expression, (expression))

/* `address`, or the error where there is none. Gives the address. */
#define CHECK_ADDRESS(expression) \
    __extension__({ errno = 0; check_address(#expression, (expression)); })

/* A relation that holds, or not. */
#define CHECK_THAT(condition) check_that(#condition, (condition))

/* A text. */
#define CHECK_TEXT(expression) printf("%s: \"%s\"\n", #expression, (expression))

/* The standard output and the standard error are one, in the order in which they are written. */
__attribute__((constructor)) static void check_begin(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
}

__attribute__((unused)) static const char *check_error(int error) {
    const char *name = strerrorname_np(error);
    return name != NULL ? name : "unknown";
}

__attribute__((unused)) static long check_number(const char *text, long number) {
    if (number == -1 && errno != 0)
        printf("%s: -1 %s\n", text, check_error(errno));
    else
        printf("%s: %ld\n", text, number);
    return number;
}

__attribute__((unused)) static long check_success(const char *text, long number) {
    printf("%s: %s\n", text, number >= 0 ? "ok" : check_error(errno));
    return number;
}

__attribute__((unused)) static int check_code(const char *text, int code) {
    printf("%s: %s\n", text, code == 0 ? "0" : check_error(code));
    return code;
}

__attribute__((unused)) static void *check_address(const char *text, void *address) {
    int is_none = address == NULL || address == (void *)-1;
    printf("%s: %s\n", text, is_none ? check_error(errno) : "address");
    return address;
}

__attribute__((unused)) static void check_that(const char *text, int holds) {
    printf("%s: %s\n", text, holds ? "yes" : "no");
}

/* Ends the program where going on makes no sense. */
__attribute__((unused)) static void require(int holds, const char *what) {
    if (!holds) {
        printf("cannot go on: %s: %s\n", what, check_error(errno));
        exit(99);
    }
}

/* A new directory, and the program in it. */
__attribute__((unused)) static void enter_directory(const char *path) {
    require(mkdir(path, 0755) == 0 && chdir(path) == 0, path);
}

/* A file with this text. */
__attribute__((unused)) static void write_file(const char *path, const char *text) {
    int file = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    require(file >= 0 && write(file, text, strlen(text)) == (ssize_t)strlen(text), path);
    close(file);
}

#endif
