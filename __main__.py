from morphism.commands import main

main()
