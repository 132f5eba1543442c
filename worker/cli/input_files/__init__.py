"""Read files of inputs as people have them, in constant memory.

    source       a path or standard input  →  a file that can be read twice, its text as UTF-8
    table        that file                 →  its records, whatever its format
    selection    a record                  →  an input, as the options of `enqueue` say
    input_file   the check of the whole file before a row is written, then its inputs

What cannot be read is refused with one complaint for each cause: where it was first found, what is
needed, and which option or command helps.
"""
