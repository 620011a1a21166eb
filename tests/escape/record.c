/* Ways to run ./target so that the record names something else: record WAY. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define AT_EXECVE_CHECK 0x10000
#define LOADER "/lib64/ld-linux-x86-64.so.2"
static char *none[] = {0};
static char *good[] = {"id", "0.3", 0};
static pthread_barrier_t start;

/* An exec of `path` that fails after its file was opened: the argument is too long. */
static void fail(const char *path) {
    static char *bad[3];
    if (!bad[0]) {
        char *big = malloc(200000);
        memset(big, 'A', 199999);
        big[199999] = 0;
        bad[0] = "x", bad[1] = big;
    }
    execve(path, bad, none);
}

static void check(const char *path) { syscall(SYS_execveat, AT_FDCWD, path, good, none, AT_EXECVE_CHECK); }

static void *decoy(void *unused) {
    char *plain[] = {"id", 0};
    pthread_barrier_wait(&start);
    execve("/usr/bin/id", plain, none);
    return 0;
}

static void *target(void *unused) {
    execve("./target", good, none);
    _exit(1);
}

static void threads(void) {
    for (int i = 0; i < 20; i++)
        if (!fork()) {
            pthread_t thread;
            pthread_barrier_init(&start, 0, 2);
            pthread_create(&thread, 0, decoy, 0);
            pthread_barrier_wait(&start);
            execve("./target", good, none);
            _exit(1);
        }
    while (wait(0) > 0) {}
}

static void traced(void) {
    pid_t parent = getpid();
    int up[2];
    char byte;
    if (pipe(up)) exit(2);
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    if (!fork()) {
        int status;
        if (ptrace(PTRACE_SEIZE, parent, 0, PTRACE_O_TRACEEXEC)) _exit(2);
        write(up[1], "x", 1);
        while (waitpid(parent, &status, __WALL) > 0 && !WIFEXITED(status)) ptrace(PTRACE_CONT, parent, 0, 0);
        _exit(0);
    }
    read(up[0], &byte, 1);
    fail("/usr/bin/id");
    execve("./target", good, none);
}

/* A copy of `from`, without a name. */
static int unnamed(const char *from) {
    char path[64], bytes[65536];
    int in = open(from, O_RDONLY), out = open(".", O_TMPFILE | O_RDWR, 0755);
    for (ssize_t n; (n = read(in, bytes, sizeof bytes)) > 0;) write(out, bytes, n);
    snprintf(path, sizeof path, "/proc/self/fd/%d", out);
    int again = open(path, O_RDONLY | O_CLOEXEC);
    close(out), close(in);
    return again;
}

int main(int argc, char **argv) {
    const char *way = argc > 1 ? argv[1] : "";
    char *decoys[] = {"/usr/bin/id", "/usr/bin/env", "/usr/bin/cat", "/usr/bin/cp", "/usr/bin/mv",
                      "/usr/bin/rm", "/usr/bin/ln", "/usr/bin/head", "/usr/bin/tail", 0};
#define IS(name) (!strcmp(way, name))
    if (IS("too_long")) for (int i = 0; decoys[i]; i++) fail(decoys[i]);
    if (IS("loader_of_another")) {
        char *arguments[] = {"id", "./target", "0.3", 0};
        fail("/usr/bin/id");
        execve(LOADER, arguments, none);
    }
    if (IS("checked")) for (int i = 0; i < 9; i++) check(i ? LOADER : "/usr/bin/id");
    if (IS("checked_once")) check("/usr/bin/id");
    if (IS("script_looked_at")) {
        char *arguments[] = {"sh", "-c", "read line < /dev/null; exec ./target 0.3", 0};
        check("./script"), fail("./script");
        execve("/bin/sh", arguments, none);
    }
    if (IS("unreadable_script")) {
        char *arguments[] = {"sh", "-c", "exec ./target 0.3", 0};
        chmod("./script", 0700), fail("./script");
        execve("/bin/sh", arguments, none);
    }
    if (IS("same_program")) {
        if (argc == 2) execl("/proc/self/exe", "record", way, "again", (char *)0);
        fail("/usr/bin/id");
    }
    if (IS("threads")) return threads(), 0;
    if (IS("another_thread")) {
        pthread_t thread;
        fail("/usr/bin/id");
        pthread_create(&thread, 0, target, 0);
        pause();
    }
    if (IS("vfork")) {
        pid_t child;
        fail("/usr/bin/id");
        if (posix_spawn(&child, "./target", 0, 0, good, none)) return 1;
        return waitpid(child, 0, 0) != child;
    }
    if (IS("traced")) traced();
    if (IS("no_name")) {
        int fd = unnamed("./target");
        fail("/usr/bin/id");
        syscall(SYS_execveat, fd, "", good, none, AT_EMPTY_PATH);
    }
    if (IS("copied_up")) {
        /* The lower file of an overlay gets another number while it is opened. */
        fail("./script"), chmod("./script", 0755);
        fail("./target"), chmod("./target", 0755);
    }
    if (IS("fails_late")) {
        if (!fork()) execve("./broken", good, none), _exit(1);
        wait(0);
        return 0;
    }
    if (IS("fails_often")) {
        for (int i = 0; i < 5000; i++) fail("/usr/bin/id");
    }
    execve("./target", good, none);
    perror(way);
    return 1;
}
