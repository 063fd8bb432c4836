from vpr_lib.cli import main

main()
