# The init of `init: true` for x86_64, as position-independent code without data. argv[1]: pid of the program.
# Started with every signal blocked that can be; takes them one by one, hands them to the program, reaps whatever has
# ended, and exits as the program did (128 + n for signal n). `init.py` holds the assembled bytes; a test compares.
#   as init_x86_64.S -o init.o && objcopy -O binary -j .text init.o init.bin
        .intel_syntax noprefix
        .text
        mov     rsi, [rsp + 16]
        xor     ebx, ebx                # ebx: the program's pid
digit:  movzx   eax, byte ptr [rsi]
        test    al, al
        jz      wait
        imul    ebx, ebx, 10
        lea     ebx, [rbx + rax - 48]
        inc     rsi
        jmp     digit
wait:   push    -1                      # every signal
        mov     rdi, rsp
        xor     esi, esi
        xor     edx, edx
        mov     r10d, 8
        mov     eax, 128                # rt_sigtimedwait
        syscall
        pop     rcx
        test    eax, eax
        js      wait
        cmp     eax, 17                 # SIGCHLD
        je      reap
        lea     ecx, [rax - 20]         # SIGTSTP, SIGTTIN, SIGTTOU: for the program alone
        cmp     ecx, 2
        jbe     wait
        mov     edi, ebx
        mov     esi, eax
        mov     eax, 62                 # kill
        syscall
        jmp     wait
reap:   push    0
        mov     edi, -1
        mov     rsi, rsp
        mov     edx, 1                  # WNOHANG
        xor     r10d, r10d
        mov     eax, 61                 # wait4
        syscall
        pop     rcx                     # the wait status
        test    eax, eax
        jle     wait
        cmp     eax, ebx
        jne     reap
        movzx   edi, ch
        and     ecx, 127
        jz      done
        lea     edi, [rcx + 128]
done:   mov     eax, 231                # exit_group
        syscall
